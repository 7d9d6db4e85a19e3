"""Parts of a job: what is killed goes on, and two processes never write the same file."""

import json

import pytest

from sap_detr.config import ConfigError
from sap_detr.results import Parts, PartsError, Shard

PLAN = {"list of pictures": "abc", "top-k": None}


@pytest.fixture
def result(tmp_path):
    return tmp_path / "results.json"


def fill(result, shard, numbers, left_out=None, **options):
    """Run a shard to its end; returns what merging gave."""
    merged = []

    def write(records):
        merged.append([record["number"] for record in records()])
        result.write_text(json.dumps(merged[-1]))

    with Parts(result, Shard.parse(shard), PLAN, **options) as parts:
        for number in numbers:
            if number not in parts.done:
                parts.add(number, {"file": f"{number}.jpg"})
        parts.finish(left_out or {})
        return parts.merge(write)


def test_the_last_to_finish_merges_in_the_order_of_the_pictures(result):
    assert fill(result, "2/3", [1, 4, 7]) is None
    assert fill(result, "3/3", [5, 2], {"8.jpg": "damaged"}) is None
    assert not result.exists()
    assert fill(result, "1/3", [0, 3, 6], {"9.jpg": "torn"}) == {
        "9.jpg": "torn",
        "8.jpg": "damaged",
    }
    assert json.loads(result.read_text()) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert list(result.parent.iterdir()) == [result]


@pytest.mark.parametrize("torn", [b'{"number": 4, "fi', b'{"number": 4}', b"\0\0\0\n", b"[1]\n"])
def test_a_torn_last_line_is_done_again(result, torn):
    with Parts(result, Shard(1, 1), PLAN) as parts:
        for number in (0, 2):
            parts.add(number, {"results": [number]})
        folder = parts.folder
    part = folder / "1-of-1.jsonl"
    whole = part.read_bytes()
    part.write_bytes(whole + torn)
    with Parts(result, Shard(1, 1), PLAN, resume=True) as parts:
        assert parts.done == {0, 2}
        assert part.read_bytes() == whole
    assert fill(result, "1/1", [0, 2, 4], resume=True) == {}
    assert json.loads(result.read_text()) == [0, 2, 4]


def test_what_is_written_is_on_disk_before_the_next_picture(result):
    with Parts(result, Shard(1, 1), PLAN) as parts:
        parts.add(7, {"results": []})
        assert json.loads((parts.folder / "1-of-1.jsonl").read_bytes())["number"] == 7


def test_two_processes_never_write_the_same_shard(result):
    with Parts(result, Shard(1, 2), PLAN) as parts:
        parts.add(0, {})
        with (
            pytest.raises(PartsError, match="another process writes shard 1/2"),
            Parts(result, Shard(1, 2), PLAN, resume=True),
        ):
            pass
        with Parts(result, Shard(2, 2), PLAN):
            pass


def test_a_part_that_is_there_is_not_written_over(result):
    with Parts(result, Shard(1, 1), PLAN):
        pass
    with Parts(result, Shard(1, 1), PLAN) as parts:  # it was empty
        parts.add(0, {})
    with pytest.raises(PartsError, match="go on from there with --resume"):
        fill(result, "1/1", [0])
    assert fill(result, "1/1", [0], resume=True) == {}


@pytest.mark.parametrize(
    "shard, plan, message",
    [
        ("2/3", PLAN, "whose shards is 2; here it is 3"),
        ("2/2", {**PLAN, "top-k": 5}, "whose top-k is None; here it is 5"),
        ("2/2", {**PLAN, "list of pictures": "x"}, "whose list of pictures is 'abc'"),
    ],
)
def test_shards_of_different_jobs_are_kept_apart(result, shard, plan, message):
    fill(result, "1/2", [0])
    with pytest.raises(PartsError, match=message), Parts(result, Shard.parse(shard), plan):
        pass


def test_a_part_that_lost_lines_after_its_end_is_told(result):
    fill(result, "1/2", [0, 2])
    part = result.with_name("results.json.parts") / "1-of-2.jsonl"
    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(PartsError, match=r"1-of-2\.jsonl has whole lines of 1 pictures, not of 2"):
        fill(result, "2/2", [1])
    assert not result.exists()


def test_while_one_merges_others_leave_it_alone(result):
    fill(result, "2/2", [1])
    seen = []

    def write(records):
        with Parts(result, Shard(2, 2), PLAN, resume=True) as other:
            assert other.is_done
            seen.append(other.merge(lambda records: pytest.fail("merged twice")))

    with Parts(result, Shard(1, 2), PLAN) as parts:
        parts.finish({})
        assert parts.merge(write) == {}
    assert seen == [None]


def test_a_shard_that_left_pictures_out_is_opened_again(result):
    fill(result, "1/2", [0], {"2.jpg": "torn"})
    with Parts(result, Shard(1, 2), PLAN, resume=True) as parts:
        assert parts.reopen()
        assert not parts.is_done
    assert fill(result, "2/2", [1]) is None  # 1/2 is not through
    assert fill(result, "1/2", [0, 2], resume=True) == {}
    assert json.loads(result.read_text()) == [0, 1, 2]


def test_a_shard_stays_done_without_need_and_while_another_merges(result):
    fill(result, "1/2", [0])
    with Parts(result, Shard(1, 2), PLAN, resume=True) as parts:
        assert not parts.reopen()
        assert parts.is_done
    tried = []
    with Parts(result, Shard(2, 2), PLAN) as parts:
        parts.finish({"1.jpg": "torn"})
        assert parts.merge(lambda records: tried.append(parts.reopen())) == {"1.jpg": "torn"}
    assert tried == [False]


def test_shares_cover_everything_once():
    shares = [Shard.parse(f"{number}/4").of(range(10)) for number in (1, 2, 3, 4)]
    assert sorted(x for share in shares for x in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "-1/4", "1/0", ""])
def test_other_shards_are_refused(text):
    with pytest.raises(ConfigError, match="I from 1 to N"):
        Shard.parse(text)


def test_processes_of_torchrun_and_srun_share_a_share():
    torchrun = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torchrun |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert Shard(1, 1).within(torchrun) == (Shard(2, 2), 1)
    assert Shard(3, 4).within(torchrun) == (Shard(6, 8), 1)
    srun = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}
    srun |= {"SLURM_NODEID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "2"}
    srun |= {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]"}
    assert Shard(1, 1).within(srun) == (Shard(4, 4), 1)
    assert Shard(2, 3).within({}) == (Shard(2, 3), None)
