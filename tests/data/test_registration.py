from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from sap_detr.data import (
    DatasetError,
    check_datasets,
    register_coco,
    register_folder,
    registration,
)
from sap_detr.data.coco_schema import read_split

Write = Callable[..., tuple[Path, Path]]


def test_class_indices_follow_ascending_category_ids(write_coco: Write) -> None:
    register_coco("pets", *write_coco())
    metadata = MetadataCatalog.get("pets")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert metadata.evaluator_type == "coco"


def test_standard_dicts(write_coco: Write) -> None:
    json_file, root = write_coco()
    register_coco("pets", json_file, root)
    dicts = DatasetCatalog.get("pets")
    assert [d["image_id"] for d in dicts] == [1, 2, 3]
    assert {k: v for k, v in dicts[0].items() if k != "annotations"} == {
        "file_name": str(root / "1.jpg"),
        "height": 30,
        "width": 40,
        "image_id": 1,
    }
    assert [len(d["annotations"]) for d in dicts] == [2, 1, 0]
    assert dicts[0]["annotations"][1] == {
        "bbox": [0.0, 0.0, 40.0, 30.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
        "iscrowd": 0,
    }


def test_registering_again_is_a_no_op_and_another_file_an_error(write_coco: Write) -> None:
    json_file, root = write_coco()
    register_coco("pets", json_file, root)
    register_coco("pets", str(json_file), str(root))
    other, _ = write_coco(json_name="data/other.json")
    with pytest.raises(DatasetError, match=r"'pets' is taken by .*train\.json.*other\.json"):
        register_coco("pets", other, root)


def test_a_builtin_name_is_taken(write_coco: Write) -> None:
    with pytest.raises(DatasetError, match="choose another name"):
        register_coco("coco_2017_train", *write_coco())


def test_missing_image_folder(write_coco: Write, tmp_path: Path) -> None:
    json_file, _ = write_coco()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        register_coco("pets", json_file, tmp_path / "nowhere")
    assert "pets" not in DatasetCatalog.list()


LAYOUTS = [
    ("train.json", "train", "val.json", "val"),
    (
        "annotations/instances_train2017.json",
        "train2017",
        "annotations/instances_val2017.json",
        "val2017",
    ),
    ("annotations/instances_train.json", "train", "annotations/instances_val.json", "val"),
    (
        "annotations/instances_train.json",
        "images/train",
        "annotations/instances_val.json",
        "images/val",
    ),
    ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_known_layouts(
    write_coco: Write, tmp_path: Path, layout: tuple[str, str, str, str]
) -> None:
    train_json, train_images, val_json, val_images = (f"data/{part}" for part in layout)
    write_coco(json_name=train_json, images_name=train_images)
    write_coco(json_name=val_json, images_name=val_images)
    assert register_folder("pets", tmp_path / "data") == ["pets_train", "pets_val"]
    assert MetadataCatalog.get("pets_train").json_file == str(tmp_path / train_json)
    assert MetadataCatalog.get("pets_val").json_file == str(tmp_path / val_json)
    assert MetadataCatalog.get("pets_val").image_root == str(tmp_path / val_images)


def test_unknown_layout_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("")
    with pytest.raises(FileNotFoundError) as caught:
        register_folder("pets", tmp_path)
    message = str(caught.value)
    for part in (
        "train.json with train/",
        "annotations/instances_train2017.json with train2017/",
        "train/_annotations.coco.json with train/",
        "labels.csv",
        "register_coco",
    ):
        assert part in message


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        register_folder("pets", tmp_path / "nowhere")


def test_missing_val_is_a_warning_unless_asked_for(write_coco: Write, tmp_path: Path) -> None:
    write_coco()
    assert register_folder("pets", tmp_path / "data") == ["pets_train"]
    assert not check_datasets(["pets_train"]).warnings()
    (warning,) = check_datasets(["pets_train"], require_validation=True).warnings()
    assert "nothing to evaluate" in warning
    assert "dataset.val=test" in warning
    with pytest.raises(FileNotFoundError, match=r"test\.json with test/"):
        register_folder("pets", tmp_path / "data", val="test")


def test_splits_can_be_named(write_coco: Write, tmp_path: Path) -> None:
    write_coco(json_name="data/fit.json", images_name="data/fit")
    write_coco(json_name="data/test.json", images_name="data/test")
    register_folder("pets", tmp_path / "data", train="fit", val="test")
    assert MetadataCatalog.get("pets_train").json_file == str(tmp_path / "data/fit.json")
    assert MetadataCatalog.get("pets_val").json_file == str(tmp_path / "data/test.json")


def test_from_lazy_config(write_coco: Write, tmp_path: Path) -> None:
    write_coco()
    write_coco(json_name="data/val.json", images_name="data/val")
    config = L(register_folder)(name="pets", folder=str(tmp_path / "data"))
    assert list(instantiate(config)) == ["pets_train", "pets_val"]
    assert list(instantiate(config)) == ["pets_train", "pets_val"]


def test_repairs_are_reported_once(
    write_coco: Write, coco: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    coco["annotations"][0]["bbox"] = [30, 20, 30, 30]
    with caplog.at_level(logging.WARNING):
        register_coco("pets", *write_coco(coco))
        DatasetCatalog.get("pets")
    assert caplog.text.count("1 boxes clipped to their image") == 1


def _average_precision(name: str, tmp_path: Path) -> float:
    """AP of predictions that equal the annotations."""
    evaluator = COCOEvaluator(
        name, distributed=False, output_dir=str(tmp_path), use_fast_impl=False
    )
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        annotations = record["annotations"]
        boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([int(a["category_id"]) for a in annotations])
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]["AP"]


def test_evaluation_uses_the_original_file_when_it_can(write_coco: Write, tmp_path: Path) -> None:
    json_file, root = write_coco()
    register_coco("pets", json_file, root)
    assert MetadataCatalog.get("pets").json_file == str(json_file)
    assert _average_precision("pets", tmp_path) == pytest.approx(100)


@pytest.mark.parametrize("fault", ["iscrowd", "area", "area 0", "id", "id 0", "same id", "info"])
def test_evaluation_works_on_files_that_pycocotools_can_not_use(
    write_coco: Write, coco: dict[str, Any], tmp_path: Path, fault: str
) -> None:
    for index, annotation in enumerate(coco["annotations"]):
        if fault in annotation:
            del annotation[fault]
        elif fault == "id 0":
            annotation["id"] = index
        elif fault == "area 0":
            annotation["area"] = 0
        elif fault == "same id":
            annotation["id"] = 1
    if fault == "info":
        del coco["info"]
    json_file, root = write_coco(coco)
    before = json_file.read_text()
    register_coco("pets", json_file, root)
    assert Path(MetadataCatalog.get("pets").json_file).parent == tmp_path / "cache"
    assert _average_precision("pets", tmp_path) == pytest.approx(100)
    assert json_file.read_text() == before


def test_crowds_stay_in_the_evaluation_file(
    write_coco: Write, coco: dict[str, Any], tmp_path: Path
) -> None:
    coco["annotations"][0]["iscrowd"] = 1
    del coco["annotations"][1]["iscrowd"]
    register_coco("pets", *write_coco(coco))
    copy = Path(MetadataCatalog.get("pets").json_file).read_text()
    assert copy.count('"iscrowd": 1') == 1


def test_a_file_is_read_once_for_registration_check_and_loading(
    write_coco: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAP_DETR_KEEP_READINGS", "0")
    read = []
    monkeypatch.setattr(
        registration,
        "read_split",
        lambda files, **options: read.append(files) or read_split(files, **options),
    )
    json_file, root = write_coco()
    register_coco("pets", json_file, root)
    first, second = check_datasets(["pets"]), check_datasets(["pets"])
    assert first.splits[0].findings.counts() == second.splits[0].findings.counts()
    dicts = DatasetCatalog.get("pets")
    assert len(read) == 1
    # What was given away is not given again: it may have been changed.
    dicts[0]["annotations"].clear()
    assert len(DatasetCatalog.get("pets")[0]["annotations"]) == 2
    assert len(read) == 1
    json_file.write_text(json_file.read_text().replace('"cat"', '"lynx"'))
    assert check_datasets(["pets"]).splits[0].class_names == ["lynx", "dog"]
