"""Classes go by their names wherever two annotation files meet."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from sap_detr.config import add_sap_detr_config, model_arguments_from_yacs
from sap_detr.data import (
    DatasetError,
    check_datasets,
    dataset_class_names,
    dataset_records,
    register_coco,
    register_folder,
)

Coco = dict[str, Any]
NAMES = {3: "cat", 7: "dog"}
Write = Callable[..., tuple[Path, Path]]


def _renumbered(content: Coco, ids: dict[int, int]) -> Coco:
    categories = [{**c, "id": ids[c["id"]]} for c in content["categories"]]
    annotations = [{**a, "category_id": ids[a["category_id"]]} for a in content["annotations"]]
    return {**content, "categories": categories, "annotations": annotations}


def _without(content: Coco, category_id: int) -> Coco:
    categories = [c for c in content["categories"] if c["id"] != category_id]
    annotations = [a for a in content["annotations"] if a["category_id"] != category_id]
    return {**content, "categories": categories, "annotations": annotations}


def _evaluate(name: str, folder: Path) -> dict[str, float]:
    """COCO evaluation of predictions that are right in places: class 0 everywhere, 1 nowhere."""
    evaluator = COCOEvaluator(name, tasks=["bbox"], output_dir=str(folder))
    evaluator.reset()
    generator = np.random.RandomState(0)
    for record in dataset_records(name):
        boxes = [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in record["annotations"]
        ]
        classes = [a["category_id"] for a in record["annotations"]]
        moved = torch.tensor(np.array(boxes).reshape(-1, 4) + generator.rand(len(boxes), 4))
        moved[torch.tensor(classes) == 1] += 30
        found = Instances((record["height"], record["width"]))
        found.pred_boxes, found.pred_classes = Boxes(moved), torch.tensor(classes)
        found.scores = torch.tensor(generator.rand(len(boxes)))
        evaluator.process([record], [{"instances": found}])
    with contextlib.redirect_stdout(io.StringIO()):
        return dict(evaluator.evaluate()["bbox"])


@pytest.mark.parametrize("ids", [{3: 7, 7: 3}, {3: 9, 7: 1}, {3: 0, 7: 5}])
def test_other_ids_give_the_same_ap(
    write_coco: Write, coco: Coco, tmp_path: Path, ids: dict[int, int]
) -> None:
    files = write_coco()
    val = write_coco(_renumbered(coco, ids), "data/val.json", "data/val")
    register_coco("pets", *files)
    register_coco("same", *files, classes_of="pets")
    register_coco("other", *val, classes_of="pets")
    expected = _evaluate("same", tmp_path)
    assert expected["AP-cat"] > 50
    assert expected["AP-dog"] == 0
    np.testing.assert_equal(_evaluate("other", tmp_path), expected)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {entry["category_id"] for entry in written} == {3, 7}  # those of the training data
    messages = check_datasets(["pets"], ["other"]).splits[1].findings.messages("note")
    assert any("other ids" in message for message in messages)


@pytest.mark.parametrize("absent", [3, 7])
def test_class_that_lacks_is_not_in_the_mean(
    write_coco: Write, coco: Coco, tmp_path: Path, absent: int
) -> None:
    write_coco()
    write_coco(_without(coco, absent), "data/val.json", "data/val")
    names = register_folder("pets", tmp_path / "data")
    assert dataset_class_names(names) == ["cat", "dog"]
    warnings = check_datasets(names[:1], names[1:]).warnings()
    assert any("no example to evaluate" in w and NAMES[absent] in w for w in warnings)
    result = _evaluate(names[1], tmp_path)
    lacking, other = NAMES[absent], NAMES[10 - absent]
    assert np.isnan(result[f"AP-{lacking}"])
    assert result["AP"] == result[f"AP-{other}"]


def test_class_that_training_lacks(write_coco: Write, coco: Coco, tmp_path: Path) -> None:
    write_coco(_without(coco, 7))
    files = write_coco(coco, "data/val.json", "data/val")
    with pytest.raises(DatasetError, match="category_id 7 is a class that the training data does"):
        register_folder("pets", tmp_path / "data")
    # Without examples it does no harm.
    coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != 7]
    files[0].write_text(json.dumps(coco))
    names = register_folder("more", tmp_path / "data")
    assert dataset_class_names(names) == ["cat"]
    assert _evaluate(names[1], tmp_path).keys() >= {"AP"}


def test_names_that_are_used_twice(write_coco: Write, coco: Coco, tmp_path: Path) -> None:
    coco["categories"][0]["name"] = "cat"
    write_coco(coco)
    write_coco(_renumbered(coco, {3: 1, 7: 2}), "data/val.json", "data/val")
    with pytest.raises(DatasetError, match="cat: used for several categories"):
        register_folder("pets", tmp_path / "data")
    write_coco(coco, "data/val.json", "data/val")
    assert dataset_class_names(register_folder("same", tmp_path / "data")) == ["cat", "cat"]


def test_sets_registered_apart_are_refused(write_coco: Write, coco: Coco) -> None:
    register_coco("pets", *write_coco())
    files = write_coco(_renumbered(coco, {3: 7, 7: 3}), "data/val.json", "data/val")
    register_coco("other", *files)
    for trained in (["pets"], []):  # training, and evaluation only
        with pytest.raises(DatasetError, match="cat, dog and dog, cat") as error:
            check_datasets(trained, ["other"], class_names=["cat", "dog"])
        assert "classes_of" in str(error.value)
    check_datasets(["pets"], ["pets"], class_names=["cat", "dog"])
    cfg = get_cfg()
    add_sap_detr_config(cfg)
    cfg.MODEL.LAZY_CONFIG = "detr/detr_small_custom.py"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("pets",), ("other",)
    with pytest.raises(DatasetError, match="classes differ"):
        model_arguments_from_yacs(cfg)
    cfg.DATASETS.TEST = ("pets",)
    assert model_arguments_from_yacs(cfg)["input_format"] == "BGR"
