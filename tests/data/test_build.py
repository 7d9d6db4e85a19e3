from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import SimpleTrainer
from torch import nn

from sap_detr.data import (
    DatasetError,
    DetrDatasetMapper,
    EpochSampler,
    build_test_loader,
    build_train_loader,
    dataset_class_names,
    dataset_records,
    register_coco,
)

Write = Callable[..., tuple[Path, Path]]
Record = dict[str, Any]


def _records(count: int) -> list[Record]:
    return [{"file_name": f"{i}.jpg", "image_id": i} for i in range(count)]


def _draw(record: Record) -> Record:
    """A mapper that shows what it drew from every global state."""
    drawn = (np.random.rand(), random.random(), torch.rand(1).item())
    return {"image_id": record["image_id"], "drawn": drawn}


def _fail_on_three(record: Record) -> Record:
    if record["image_id"] == 3:
        raise DatasetError("3.jpg: can't be used as an image")
    return record


def _take(loader: torch.utils.data.DataLoader, count: int) -> list[list[Record]]:
    return list(itertools.islice(loader, count))


def _tokens(sampler: EpochSampler, count: int) -> list[tuple[int, int]]:
    return list(itertools.islice(sampler, count))


def test_an_epoch_shows_every_image_once_in_another_order() -> None:
    sampler = EpochSampler(12, 4, seed=0)
    indices = [index for _, index in _tokens(sampler, 36)]
    epochs = [indices[i : i + 12] for i in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [position for position, _ in _tokens(sampler, 36)] == list(range(36))


def test_the_order_depends_on_the_seed_only() -> None:
    first = _tokens(EpochSampler(12, 4, seed=0), 24)
    np.random.seed(5)
    torch.manual_seed(5)
    assert _tokens(EpochSampler(12, 4, seed=0), 24) == first
    assert _tokens(EpochSampler(12, 4, seed=1), 24) != first


def test_the_last_partial_batch_is_dropped() -> None:
    sampler = EpochSampler(11, 4, seed=0)
    indices = [index for _, index in _tokens(sampler, 160)]
    for epoch in range(20):
        used = indices[epoch * 8 : epoch * 8 + 8]
        assert len(set(used)) == 8
        assert used == sampler.epoch_order(epoch)[:8].tolist()
    assert set(indices) == set(range(11))


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7, 100])
def test_resuming_at_a_step(step: int) -> None:
    sampler = EpochSampler(11, 4, seed=3)
    expected = _tokens(sampler, 4 * (step + 5))[4 * step :]
    sampler.set_step(step)
    assert _tokens(sampler, 20) == expected


def test_processes_share_the_stream() -> None:
    alone = _tokens(EpochSampler(23, 8, seed=0), 80)
    ranks = [iter(EpochSampler(23, 8, seed=0, rank=r, world_size=4)) for r in range(4)]
    together = [next(rank) for _ in range(10) for rank in ranks for _ in range(2)]
    assert together == alone


def test_accumulation_takes_the_images_of_more_processes() -> None:
    """One process with 4 steps, 2 with 2 and 4 with 1: the same groups of images in an update."""

    def groups(world_size: int, steps: int) -> list[set[tuple[tuple[int, int], ...]]]:
        per_step = 8 // steps
        ranks = [
            iter(
                EpochSampler(
                    23, per_step, 0, accumulation_steps=steps, rank=r, world_size=world_size
                )
            )
            for r in range(world_size)
        ]
        return [
            {
                tuple(itertools.islice(rank, per_step // world_size))
                for _ in range(steps)
                for rank in ranks
            }
            for _ in range(6)
        ]

    assert groups(1, 4) == groups(2, 2) == groups(4, 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 3}, "3 images, fewer than the 4"),
        ({"size": 7, "accumulation_steps": 2}, "7 images, fewer than the 8"),
        ({"world_size": 3}, "3 processes can't share a batch of 4"),
        ({"total_batch_size": 0}, "positive"),
        ({"seed": -1}, "negative"),
    ],
)
def test_settings_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpochSampler(**{"size": 12, "total_batch_size": 4, "seed": 0, **arguments})
    with pytest.raises(ValueError, match="step"):
        EpochSampler(12, 4, 0).set_step(-1)


def test_augmentation_does_not_depend_on_workers() -> None:
    alone = _take(build_train_loader(_records(10), _draw, 4, 0, seed=7), 8)
    assert _take(build_train_loader(_records(10), _draw, 4, 2, seed=7), 8) == alone
    drawn = [record["drawn"] for batch in alone for record in batch]
    assert len({d[0] for d in drawn}) == len({d[1] for d in drawn}) == len(drawn)
    assert len({d[2] for d in drawn}) == len(drawn)
    other = _take(build_train_loader(_records(10), _draw, 4, 0, seed=8), 1)
    assert other != alone[:1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_new_iterator_resumes(num_workers: int) -> None:
    expected = _take(build_train_loader(_records(10), _draw, 4, 0, seed=7), 9)
    loader = build_train_loader(_records(10), _draw, 4, num_workers, seed=7)
    assert _take(loader, 2) == expected[:2]
    loader.sampler.set_step(5)
    assert _take(loader, 4) == expected[5:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_leaves_the_global_random_state_alone(num_workers: int) -> None:
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()  # type: ignore[index]
    _take(build_train_loader(_records(10), _draw, 4, num_workers, seed=0), 3)
    after = np.random.get_state()[1], random.getstate(), torch.get_rng_state()  # type: ignore[index]
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1] == before[1]
    assert torch.equal(after[2], before[2])


def test_the_state_is_restored_after_an_error() -> None:
    dataset = build_train_loader(_records(4), _fail_on_three, 2, 0).dataset
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    with pytest.raises(DatasetError):
        dataset[(0, 3)]
    assert np.random.rand() == expected


def test_an_error_in_a_worker_keeps_its_class_and_text() -> None:
    with pytest.raises(DatasetError, match=r"3\.jpg: can't be used as an image"):
        _take(build_train_loader(_records(4), _fail_on_three, 2, 1), 4)


def test_samples_are_copies() -> None:
    def spoil(record: Record) -> Record:
        assert "spoiled" not in record
        record["spoiled"] = True
        return record

    _take(build_train_loader(_records(4), spoil, 2, 0), 6)


def test_it_feeds_a_trainer() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.seen: list[list[int]] = []

        def forward(self, batch: list[Record]) -> dict[str, torch.Tensor]:
            self.seen.append([record["image_id"] for record in batch])
            return {"loss": self.weight**2}

    loader = build_train_loader(_records(10), _draw, 4, 0, seed=7)
    model = Model()
    SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), 0.1)).train(0, 5)
    expected = [[record["image_id"] for record in batch] for batch in _take(loader, 5)]
    assert model.seen == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_gives_every_image_once_in_order(num_workers: int) -> None:
    loader = build_test_loader(_records(5), _draw, num_workers)
    assert [[r["image_id"] for r in batch] for batch in loader] == [[0], [1], [2], [3], [4]]
    loader = build_test_loader(_records(5), _draw, num_workers, batch_size=2)
    assert len(loader) == 3
    assert [[r["image_id"] for r in batch] for batch in loader] == [[0, 1], [2, 3], [4]]


def test_loaders_take_names(write_coco: Write) -> None:
    register_coco("pets", *write_coco())
    batch = next(iter(build_train_loader("pets", DetrDatasetMapper(True, []), 3)))
    assert sorted(record["image_id"] for record in batch) == [1, 2, 3]
    batches = list(build_test_loader(["pets"], DetrDatasetMapper(False, [])))
    assert [batch[0]["image_id"] for batch in batches] == [1, 2, 3]
    with pytest.raises(DatasetError, match="no images"):
        build_test_loader([], DetrDatasetMapper(False, []))


def test_images_without_objects_are_kept(write_coco: Write) -> None:
    register_coco("pets", *write_coco())
    assert len(dataset_records("pets")) == 3


@pytest.mark.parametrize("function", [dataset_records, dataset_class_names])
def test_unknown_and_missing_names(function: Callable[..., Any]) -> None:
    with pytest.raises(DatasetError, match=r"no data set 'pest'.*register_folder"):
        function("pest")
    with pytest.raises(DatasetError, match="no data set is named"):
        function([])


def test_several_data_sets_must_agree_about_classes(
    write_coco: Write, coco: dict[str, Any]
) -> None:
    register_coco("pets", *write_coco())
    register_coco("more", *write_coco(json_name="data/more.json"))
    assert dataset_class_names(["pets", "more"]) == ["cat", "dog"]
    assert len(dataset_records(["pets", "more"])) == 6
    coco["categories"][0]["name"] = "wolf"
    register_coco("wolves", *write_coco(coco, json_name="data/wolves.json"))
    for function in (dataset_class_names, dataset_records):
        with pytest.raises(DatasetError, match=r"(?s)pets: \['cat', 'dog'\].*wolves.*'wolf'"):
            function(["pets", "wolves"])


@pytest.fixture
def _late_classes() -> None:
    def load() -> list[Record]:
        MetadataCatalog.get("late").thing_classes = ["bird"]
        return _records(1)

    DatasetCatalog.register("late", load)
    DatasetCatalog.register("nameless", lambda: _records(1))


@pytest.mark.usefixtures("_late_classes")
def test_class_names_that_appear_on_loading() -> None:
    assert dataset_class_names("late") == ["bird"]
    with pytest.raises(DatasetError, match="'nameless' has no class names"):
        dataset_class_names("nameless")


def test_class_names_of_a_builtin_data_set() -> None:
    names = dataset_class_names("coco_2017_val")
    assert len(names) == 80
    assert names[0] == "person"
