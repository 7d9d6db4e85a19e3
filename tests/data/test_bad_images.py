"""Images that turn out to be unreadable while training or evaluating."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sap_detr.data import (
    BadImageError,
    DatasetError,
    DetrDatasetMapper,
    EpochSampler,
    Findings,
    Kind,
    UnreadableImages,
    build_test_loader,
    build_train_loader,
)
from sap_detr.data import unreadable_images as module
from sap_detr.data.coco_schema import CocoFile, read_split
from sap_detr.data.files import inspect_files

Record = dict[str, Any]
BAD = (3, 11)


def _records(count: int = 40) -> list[Record]:
    return [{"file_name": f"{i}.jpg", "image_id": i} for i in range(count)]


def _map(record: Record) -> Record:
    """A mapper that can't read two images, and that draws."""
    if record["image_id"] in BAD:
        raise BadImageError(record["file_name"], Kind.DAMAGED_FILE, "cut off")
    return {"image_id": record["image_id"], "drawn": np.random.rand()}


def _map_nothing(record: Record) -> Record:
    raise BadImageError(record["file_name"], Kind.DAMAGED_FILE, "no disk")


def _take(loader: Any, count: int) -> list[list[Record]]:
    return list(itertools.islice(loader, count))


def _ids(batches: list[list[Record]]) -> list[int]:
    return [record["image_id"] for batch in batches for record in batch]


def _error_of(loader: Any, count: int) -> str:
    # What pytest.raises keeps would keep torch from ending its workers, see CheckedLoader.
    try:
        _take(loader, count)
    except DatasetError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def test_a_bad_image_is_replaced_by_one_that_depends_on_its_position_only() -> None:
    whole = _take(build_train_loader(_records(), _map, 4, seed=5, max_bad_share=0.05), 20)
    order = [index for _, index in itertools.islice(EpochSampler(40, 4, seed=5), 80)]
    changed = [place for place, (i, j) in enumerate(zip(_ids(whole), order, strict=True)) if i != j]
    assert sorted(order[place] for place in changed) == sorted(BAD * 2)  # two epochs
    assert not set(BAD) & set(_ids(whole))
    replacements = [_ids(whole)[place] for place in changed]
    assert len(set(replacements)) > 1

    for num_workers in (0, 2):
        resumed = build_train_loader(_records(), _map, 4, num_workers, seed=5, max_bad_share=0.05)
        resumed.sampler.set_step(3)
        assert _take(resumed, 17) == whole[3:]
    # Two steps of accumulation see the same as one batch of twice the size.
    halves = build_train_loader(
        _records(), _map, 2, seed=5, accumulation_steps=2, max_bad_share=0.05
    )
    assert _ids(_take(halves, 40)) == _ids(whole)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_file_is_reported_once_and_counted(
    num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    loader = build_train_loader(_records(), _map, 4, num_workers, max_bad_share=0.05)
    with caplog.at_level(logging.WARNING):
        batches = _take(loader, 40)
    assert all(set(record) == {"image_id", "drawn"} for batch in batches for record in batch)
    assert loader.unreadable.files == {"3.jpg": "cut off", "11.jpg": "cut off"}
    assert loader.unreadable.num_replaced == 8
    assert sum("3.jpg: cut off" in message for message in caplog.messages) == 1
    caplog.clear()
    loader.unreadable.log_summary()
    assert "2 of 40 training images" in caplog.text
    assert "8 times" in caplog.text
    assert "11.jpg: cut off" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("share", "allowed"), [(0.0, 0), (0.01, 1), (0.025, 1)])
def test_too_many_bad_images_stop_with_their_names(
    num_workers: int, share: float, allowed: int
) -> None:
    loader = build_train_loader(_records(), _map, 4, num_workers, max_bad_share=share)
    message = _error_of(loader, 10)
    assert f"{allowed + 1} of 40" in message
    assert f"more than the {allowed} " in message
    assert message.count("jpg: cut off") == allowed + 1
    assert "max_bad_share" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_disk_that_is_gone_stops_at_once(num_workers: int) -> None:
    loader = build_train_loader(_records(), _map_nothing, 4, num_workers, max_bad_share=1)
    message = _error_of(loader, 1)
    assert "11 images" in message
    assert "jpg: no disk" in message
    assert "Traceback" not in message


def test_other_errors_are_not_replaced() -> None:
    def fail(record: Record) -> Record:
        raise DatasetError("0.jpg: has a box that is not finite")

    with pytest.raises(DatasetError, match="not finite"):
        _take(build_train_loader(_records(), fail, 4, max_bad_share=1), 1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_evaluation_replaces_nothing_and_names_the_image(num_workers: int) -> None:
    loader = build_test_loader(_records(), _map, num_workers)
    expected = "BadImageError: 3.jpg: can't be used as an image: cut off; replace these"
    assert _error_of(loader, 40).startswith(expected)
    assert len(_take(loader, 3)) == 3


def test_several_processes_share_their_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.comm, "get_world_size", lambda: 2)
    others = [("b.jpg", "empty"), ("a.jpg", "cut off")]
    monkeypatch.setattr(module.comm, "all_gather", lambda mine: [mine, others])
    images = UnreadableImages(200, 0.01)
    images.note([("a.jpg", "cut off")])
    # Alone it must not stop, or the others would wait for it.
    assert not images.files
    images.share()
    assert images.files == {"a.jpg": "cut off", "b.jpg": "empty"}
    assert images.num_replaced == 3
    restored = UnreadableImages(200, 0.01)
    restored.load_state_dict(images.state_dict())
    assert restored.state_dict() == images.state_dict()
    restored.note([("c.jpg", "empty")])
    with pytest.raises(DatasetError, match="3 of 200"):
        restored.share()


def test_long_lists_are_cut() -> None:
    images = UnreadableImages(1000, 0.03)
    with pytest.raises(DatasetError) as caught:
        images.note((f"{i}.jpg", "empty") for i in range(35))
    assert str(caught.value).count(": empty") == module.MAX_LISTED
    assert "and 15 more" in str(caught.value)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(ValueError, match="max_bad_share"):
        build_train_loader(_records(), _map, 4, max_bad_share=share)


def test_damage_that_only_decoding_shows(
    write_coco: Callable[..., tuple[Path, Path]], damage_image: Callable[[Path], None]
) -> None:
    """From a real file to the count: what the check before training can't see."""
    json_file, root = write_coco()
    damage_image(root / "2.jpg")
    dicts = list(read_split(CocoFile(json_file, root)).records)
    findings = Findings("train")
    with ThreadPoolExecutor(1) as pool:
        inspect_files(dicts, findings, pool)
    assert not findings.of()
    loader = build_train_loader(dicts, DetrDatasetMapper(True, []), 1, max_bad_share=0.3)
    assert set(_ids(_take(loader, 9))) == {1, 3}
    (name,) = loader.unreadable.files
    assert Path(name).name == "2.jpg"
    assert "damaged" in loader.unreadable.files[name]
