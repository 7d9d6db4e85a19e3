from __future__ import annotations

import copy
import json

import pytest
from compare_benchmarks import CompareError, compare, compare_table, load_benchmark, main

MACHINE = {"device": "cpu", "name": "A", "threads": 1, "torch": "2.5"}


def speed_file(latency: float = 1.0, **machine) -> dict:
    record = {
        "config": "a.py",
        "overrides": [],
        "size": [64, 96],
        "batch": 1,
        "dtype": "float32",
        "inference": {"median": latency, "min": latency, "parts": {"backbone": latency / 2}},
        "images_per_second": 1 / latency,
        "relative": {"inference": {"median": 1.5}},
        "host_syncs": {"cpu at matcher.py:1": 1, "item at x.py:2": 2},
    }
    return {"kind": "speed", "machine": {**MACHINE, **machine}, "records": [record]}


def test_ratios():
    new = speed_file(0.5)
    new["records"][0]["host_syncs"] = {"cpu at matcher.py:7": 1}
    new["records"][0]["overrides"] = ["model.x=1"]
    rows, warnings = compare(speed_file(2.0), new)
    assert warnings == []
    figures = {row["figure"]: (row["old"], row["new"], row["ratio"]) for row in rows}
    assert figures == {
        "latency (s)": (2.0, 0.5, 0.25),
        "latency, fastest (s)": (2.0, 0.5, 0.25),
        "latency, backbone (s)": (1.0, 0.25, 0.25),
        "images/s": (0.5, 2.0, 4),
        "inference / body forward": (1.5, 1.5, 1),
        "waits for the device per step": (3, 1, 1 / 3),
    }
    assert {row["record"] for row in rows} == {"a.py 64x96 1 float32"}
    assert "0.250" in compare_table(rows)


def test_counts():
    old = {"kind": "params", "records": [{"config": "a.py", "total": 0, "trained": 10}]}
    new = {"kind": "params", "records": [{"config": "a.py", "total": 5, "trained": 20}]}
    rows, _ = compare(old, new)
    assert [row["ratio"] for row in rows] == [None, 2]
    compare_table(rows)


def test_loaders():
    def file(data: str, fast: float) -> dict:
        readers = {"pil": {"images_per_second": 90.0, "bytes": 7.0, "seconds": {}}}
        readers["fast"] = {"images_per_second": fast, "bytes": 7.0, "seconds": {}}
        record = {"config": "coco.py", "data": data, "images": 100, "readers": readers}
        return {"kind": "loader", "machine": MACHINE, "records": [record]}

    rows, _ = compare(file("a", 160.0), file("a", 200.0))
    assert {row["record"] for row in rows} == {"coco.py a 100"}
    ratios = {row["figure"]: row["ratio"] for row in rows}
    assert ratios == {
        "images/s/core, pil": 1,
        "images/s/core, fast": 1.25,
        "bytes of an image, pil": 1,
        "bytes of an image, fast": 1,
    }
    with pytest.raises(CompareError, match="nothing in common"):
        compare(file("a", 160.0), file("b", 200.0))


def test_other_machine_is_warned_of():
    _, warnings = compare(speed_file(), speed_file(name="B", threads=2))
    assert warnings == ["name differs: A and B", "threads differs: 1 and 2"]


def test_records_of_one_file_only():
    old, new = speed_file(), speed_file()
    other = copy.deepcopy(old["records"][0])
    other["size"] = [32, 32]
    new["records"].append(other)
    rows, warnings = compare(old, new, ("old.json", "new.json"))
    assert warnings == ["only in new.json: a.py 32x32 1 float32"]
    assert all(row["ratio"] == 1 for row in rows)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "memory"}, "old holds speed and new memory"),
        ({"machine": {**MACHINE, "device": "cuda"}}, "old was measured on cpu and new on cuda"),
        ({"records": []}, "nothing in common"),
        ({"records": speed_file()["records"] * 2}, "new has several records of a.py"),
    ],
)
def test_refused(change, message):
    with pytest.raises(CompareError, match=message):
        compare(speed_file(), {**speed_file(), **change}, ("old", "new"))


def test_profiles_are_not_compared():
    content = {"kind": "profile", "records": []}
    with pytest.raises(CompareError, match="no figures of profile"):
        compare(content, content)


@pytest.mark.parametrize(
    "text, message", [("{", "not JSON"), ("[]", "not written by"), ("{}", "not written by")]
)
def test_other_files(tmp_path, text, message):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(CompareError, match=message):
        load_benchmark(path)
    path.write_text(json.dumps(speed_file()))
    assert load_benchmark(path) == speed_file()


def test_command_line(tmp_path, capsys):
    old, new, out = (tmp_path / name for name in ("old.json", "new.json", "out.json"))
    old.write_text(json.dumps(speed_file(2.0)))
    new.write_text(json.dumps(speed_file(1.0, name="B")))
    table = tmp_path / "out.md"
    assert main([str(old), str(new), "--json", str(out), "--markdown", str(table)]) == 0
    captured = capsys.readouterr()
    assert "0.500" in captured.out
    assert captured.err == "warning: name differs: A and B\n"
    assert json.loads(out.read_text())[0]["ratio"] == 0.5
    assert " 0.500 |" in table.read_text()
    assert main([str(old), str(tmp_path / "none.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "none.json" in error
