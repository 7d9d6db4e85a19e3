"""Generated bad annotation files: each gives a clear error or a counted repair, never a crash."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sap_detr.cli import main
from sap_detr.data import (
    CocoAnnotations,
    DatasetError,
    check_datasets,
    register_coco,
    register_folder,
)
from sap_detr.data.coco_schema import CocoFile, read_split
from sap_detr.data.typed_annotations import NotPlain

Coco = dict[str, Any]
Mutation = Callable[[Coco], None]

# A hang, not a slow machine.
FOREVER = timedelta(seconds=60)


def _good() -> Coco:
    """Three images, four annotations (a crowd among them), two categories."""
    boxes = [(1, 3, [5, 6, 10, 12], 0), (1, 7, [0, 0, 40, 30], 0)]
    boxes += [(2, 3, [30.5, 10, 9.5, 8], 0), (2, 7, [1, 1, 20, 20], 1)]
    return {
        "info": {"year": 2020},
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in (1, 2, 3)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
                "segmentation": [],
            }
            for i, (image, category, box, crowd) in enumerate(boxes, 1)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def _places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of everything inside, down to the numbers of boxes."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from _places(item, (*path, key))


GOOD = json.dumps(_good()).encode()
SPLITS = ("train", "val")
PLACES = list(_places(_good()))
BOX_NUMBERS = [place for place in PLACES if "bbox" in place[:-1]]
KEYS = sorted({place[-1] for place in PLACES if isinstance(place[-1], str)})


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 3, 7, 40, -(2**31), 2**31, 2**53 + 1, 2**63, -(2**64), 10**400]),
    st.sampled_from([0.0, -0.0, 0.5, 2.0, -3.7, 1e-320, 1e16, 1e308, -1e308]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.sampled_from(
        ["", "1", "-1", "cat", "nan", "1.jpg", "../../x.jpg", "/dev/zero", ".", "a\0b"]
    ),
    st.sampled_from(["\ud800", "\u202e\u0000", "x" * 5000, "é.jpg", "a/b/c.jpg", "\n"]),
    st.sampled_from(
        [[], {}, [[]], [None], {"id": 1}, [1, 2, 3, 4], [1, 2, 3], ["1", "2", "3", "4"]]
    ),
    st.integers(2, 60).map(_nested),
    st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=4, max_size=4),
)


@st.composite
def _mutations(draw: st.DrawFn) -> Mutation:
    """A change of one place: another value, a missing or misnamed key, an item more or less."""
    place = draw(st.one_of(st.sampled_from(PLACES), st.sampled_from(BOX_NUMBERS)))
    kind = draw(
        st.sampled_from(["replace", "move", "move", "delete", "rename", "repeat", "insert"])
    )
    junk, name = draw(JUNK), draw(st.sampled_from([*KEYS, "x"]))
    distance = draw(st.sampled_from([-50, -7.5, -1, 0.01, 1, 9.5, 40]))

    def change(content: Coco) -> None:
        *parents, last = place
        target: Any = content
        try:
            for parent in parents:
                target = target[parent]
            value = target[last]
            if kind == "replace":
                target[last] = junk
            elif kind == "move":
                target[last] = value + distance
            elif kind == "delete":
                del target[last]
            elif kind == "rename" and isinstance(target, dict):
                target[name] = target.pop(last)
            elif isinstance(target, list):
                target.insert(0, copy.deepcopy(value) if kind == "repeat" else junk)
        except (KeyError, IndexError, TypeError, AttributeError):
            pass  # an earlier change took the place away

    return change


@st.composite
def _damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A change of the bytes of a file."""
    kind = draw(
        st.sampled_from(
            [
                "cut",
                "cut",
                "flip",
                "utf-8-sig",
                "utf-16",
                "utf-32",
                "latin-1",
                "zeros",
                "twice",
                "gap",
            ]
        )
    )
    share, byte = draw(st.floats(0, 1)), draw(st.integers(0, 255))

    def change(data: bytes) -> bytes:
        place = int(share * (len(data) - 1))
        if kind == "cut":
            return data[:place]
        if kind == "flip":
            return data[:place] + bytes([byte]) + data[place + 1 :]
        if kind == "zeros":
            return data[:place] + bytes(len(data) - place)
        if kind == "twice":
            return data * 2
        if kind == "gap":
            return data[: place // 2] + data[place:]
        text = data.decode().replace("dog", "döçg")
        return text.encode(kind, "replace")

    return change


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of which one split is replaced by what is generated."""
    path = tmp_path_factory.mktemp("bad_annotations")
    for number, split in enumerate(SPLITS):
        (path / split).mkdir()
        for i in (1, 2, 3):
            color = (80 * i, 200 * number, 0)
            Image.new("RGB", (40, 30), color).save(path / split / f"{i}.jpg")
    return path


@pytest.fixture(scope="module")
def outcomes() -> Counter[str]:
    """How the generated files ended, so that a generator that makes only good ones is noticed."""
    return Counter()


def _check(folder: Path, data: bytes) -> str:
    """What becomes of a file; raises AssertionError if that is not what it should be."""
    for split in SPLITS:
        _assert_same_verdict(folder, split, data)
    json_file, images = folder / "train.json", folder / "train"
    json_file.write_bytes(data)
    try:
        checked = _read_both_ways(json_file, images)
        checked.findings.raise_errors()
    except DatasetError as error:
        message = str(error)
        assert str(json_file) in message
        assert "Traceback" not in message
        assert len(message) < 6000
        message.encode("utf-8")  # a log and a terminal can take it
        with pytest.raises(DatasetError):
            register_coco("generated", json_file, images)
        return "refused"
    _assert_usable(checked, json.loads(data))
    try:
        register_coco("generated", json_file, images)
        evaluation_json = MetadataCatalog.get("generated").json_file
    finally:
        _forget("generated")
    _evaluate(checked, evaluation_json)
    return "repaired" if checked.findings.of() else "fine"


def _read_both_ways(json_file: Path, images: Path) -> CocoAnnotations:
    """What the fast way of reading takes, it reads as the slow one does."""
    with patch("sap_detr.data.coco_schema.read_typed", side_effect=NotPlain):
        slow = read_split(CocoFile(json_file, images))
    fast = read_split(CocoFile(json_file, images))
    assert list(fast.records) == list(slow.records)
    assert fast.categories == slow.categories
    assert fast.findings.of() == slow.findings.of()
    assert fast.for_evaluation == slow.for_evaluation
    return fast


def _forget(*names: str) -> None:
    for name in names:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def _assert_same_verdict(folder: Path, split: str, data: bytes) -> int:
    """Training and the checking tool refuse the same sets, and warn of the same in the others.

    Returns the exit code of the tool, with ``--strict``.
    """
    for name in SPLITS:
        (folder / f"{name}.json").write_bytes(data if name == split else GOOD)
    report = folder / "report.json"
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        arguments = ["--folder", folder, "--json", report, "--num-queries", 1, "--workers", 0]
        code = main(["check", *map(str, arguments), "--strict"])
    text = out.getvalue()
    text.encode("utf-8")
    try:
        names = register_folder("generated", folder)
        inspection = check_datasets(names[:1], names[1:], num_queries=1)
        _forget(*names)
        names = register_folder("generated", folder)
        again = check_datasets(names[:1], names[1:], num_queries=1)
        assert [f.of() for f in again.all_findings()] == [f.of() for f in inspection.all_findings()]
        (evaluated,) = check_datasets(evaluated=names[1:], num_queries=1).splits
        assert evaluated.findings.of() == inspection.splits[1].findings.of()
    except DatasetError:
        assert code == 2, text
        return code
    finally:
        _forget("generated_train", "generated_val")
    record = json.loads(report.read_text())
    listed = [*(part["findings"] for part in record["splits"]), record["between_splits"]]
    told = [{finding["kind"]: finding["count"] for finding in part} for part in listed]
    assert told == [findings.counts() for findings in inspection.all_findings()]
    warned = any(findings.of("warning") for findings in inspection.all_findings())
    assert code == int(warned), text
    return code


def _assert_usable(checked: CocoAnnotations, content: Coco) -> None:
    assert len(checked.records) == len(content["images"])
    kept = sum(len(record["annotations"]) for record in checked.records)
    dropped = sum(n for kind, n in checked.findings.counts().items() if "dropped" in kind)
    assert kept + dropped == len(content["annotations"])
    for record in checked.records:
        width, height = record["width"], record["height"]
        assert type(width) is type(height) is type(record["image_id"]) is int
        for annotation in record["annotations"]:
            x, y, w, h = annotation["bbox"]
            assert 0 <= x < x + w <= width + 1e-9
            assert 0 <= y < y + h <= height + 1e-9
            assert annotation["category_id"] in range(len(checked.class_names))
            assert annotation["iscrowd"] in (0, 1)


def _evaluate(checked: CocoAnnotations, json_file: str) -> None:
    """The registered annotations pass through COCO evaluation: objects that are found give AP 1."""
    found = [
        {
            "image_id": record["image_id"],
            "category_id": list(checked.categories)[a["category_id"]],
            "bbox": a["bbox"],
            "score": 0.9,
        }
        for record in checked.records
        for a in record["annotations"]
        if not a["iscrowd"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    if not checked.findings.of():
        assert evaluation.stats[0] == pytest.approx(1)


GENERATED = dict(
    derandomize=True,
    database=None,
    deadline=FOREVER,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(max_examples=380, **GENERATED)
@given(mutations=st.lists(_mutations(), min_size=1, max_size=3))
def test_changed_content(folder: Path, outcomes: Counter[str], mutations: list[Mutation]) -> None:
    content = _good()
    for mutation in mutations:
        mutation(content)
    outcomes[_check(folder, json.dumps(content).encode())] += 1


@settings(max_examples=100, **GENERATED)
@given(damage=_damage())
def test_changed_bytes(
    folder: Path, outcomes: Counter[str], damage: Callable[[bytes], bytes]
) -> None:
    outcomes[_check(folder, damage(json.dumps(_good()).encode()))] += 1


def test_the_generated_files_were_bad(outcomes: Counter[str]) -> None:
    """Runs after the tests above."""
    if not outcomes:
        pytest.skip("needs the tests above")
    assert outcomes.total() >= 480
    assert outcomes["refused"] > 150
    assert outcomes["repaired"] > 30


def _without_annotations(content: Coco) -> None:
    del content["annotations"]


def _without_objects(content: Coco) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def _other_ids(content: Coco) -> None:
    content["categories"][0]["id"], content["categories"][1]["id"] = 3, 7


def _one_class_less(content: Coco) -> None:
    del content["categories"][0]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 3]


def _one_class_unused(content: Coco) -> None:
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 3]


def _file_twice(content: Coco) -> None:
    content["images"][1]["file_name"] = "1.jpg"


def _file_of_the_other_split(content: Coco) -> None:
    content["images"][1]["file_name"] = "../train/2.jpg"


def _file_missing(content: Coco) -> None:
    content["images"][1]["file_name"] = "4.jpg"


def _other_size(content: Coco) -> None:
    content["images"][1]["width"] = 41


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (_without_annotations, {"train"}),
        (_without_objects, {"train"}),
        (_other_ids, set()),
        (_one_class_less, {"train"}),
        (_one_class_unused, set()),
        (_file_twice, set()),
        (_file_of_the_other_split, set()),
        (_file_missing, {"train", "val"}),
        (_other_size, {"train", "val"}),
    ],
)
def test_faults_of_whole_sets(
    folder: Path, split: str, change: Mutation, refused: set[str]
) -> None:
    content = _good()
    change(content)
    code = _assert_same_verdict(folder, split, json.dumps(content).encode())
    assert code == (2 if split in refused else 1)


def test_images_that_only_decoding_shows_to_be_damaged(
    folder: Path, damage_image: Callable[[Path], None]
) -> None:
    """They stop an evaluation, and are replaced in training."""
    for split, expected in (("train", 1), ("val", 2)):
        file = folder / split / "2.jpg"
        before = file.read_bytes()
        damage_image(file)
        assert _assert_same_verdict(folder, split, GOOD) == expected
        file.write_bytes(before)
