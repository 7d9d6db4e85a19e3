"""LVIS: its classes, its evaluator, and a training with both."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import get_lvis_instances_meta, register_lvis_instances
from detectron2.structures import Boxes, Instances
from PIL import Image

from sap_detr.config import load_config
from sap_detr.data import DatasetError, dataset_records
from sap_detr.engine.main import main
from sap_detr.evaluation.lvis import LvisEvaluator

CONFIG = "sap_detr/sap_detr_r50_lvis_24ep.py"
NAME = "lvis_v1_tiny"
# Category ids, and how many images have them: rare, common, frequent.
FREQUENCIES = {5: "r", 700: "c", 1203: "f"}


@pytest.fixture
def data(tmp_path):
    """Four images in LVIS's form, each with a box of every class."""
    images, annotations = [], []
    for index in range(1, 5):
        pixels = np.random.RandomState(index).randint(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index:012}.png")
        images.append(
            {
                "id": index,
                "coco_url": f"http://images/{tmp_path.name}/{index:012}.png",
                "height": 48,
                "width": 64,
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
        )
        for place, category in enumerate(FREQUENCIES):
            box = [20 * place + 1, 3 * index, 18, 30]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "segmentation": [[box[0], box[1], box[0] + 18, box[1], box[0], box[1] + 30]],
                }
            )
    categories = [
        {"id": i, "name": str(i), "frequency": f, "image_count": 4} for i, f in FREQUENCIES.items()
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = tmp_path / "lvis.json"
    file.write_text(json.dumps(content))
    # Detectron2 puts the folder of an address behind it, without a stroke between.
    root = f"{tmp_path.parent}/"
    register_lvis_instances(NAME, get_lvis_instances_meta("lvis_v1"), str(file), root)
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def evaluate(keep):
    """The metrics of what is annotated, as far as ``keep`` says so of a class index."""
    evaluator = LvisEvaluator(NAME, tasks=("bbox",), distributed=False)
    evaluator.reset()
    for record in dataset_records(NAME):
        kept = [a for a in record["annotations"] if keep(a["category_id"])]
        boxes = torch.tensor([a["bbox"] for a in kept], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((48, 64), pred_boxes=Boxes(boxes), scores=torch.ones(len(boxes)))
        instances.pred_classes = torch.tensor([a["category_id"] for a in kept])
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def test_metrics_of_detections_by_hand(data):
    pytest.importorskip("lvis")
    whole = evaluate(lambda index: True)
    assert [whole[key] for key in ("AP", "APr", "APc", "APf")] == pytest.approx([100] * 4)
    # Class indices are ids less one; the rare class is the only one that is not found.
    found = evaluate(lambda index: index != 4)
    assert [found[key] for key in ("AP", "APr", "APc", "APf")] == pytest.approx(
        [200 / 3, 0, 100, 100]
    )


def test_the_recipe_trains_and_evaluates(data, tmp_path):
    pytest.importorskip("lvis")
    changes = [
        f"dataloader.train.dataset.names={NAME}",
        f"dataloader.test.dataset.names={NAME}",
        "dataloader.train.mapper.augmentations.short_sides=[48]",
        "dataloader.train.mapper.augmentations_with_crop=null",
        "dataloader.test.mapper.augmentations.short_side=48",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.total_batch_size=2",
        "model.encoder.num_layers=1",
        "model.decoder.num_layers=1",
        "train.init_checkpoint=",
        "train.max_iter=1",
        "train.device=cpu",
        f"train.output_dir={tmp_path}/run",
    ]
    assert main(["--config-file", CONFIG, *changes]) == 0
    lines = map(json.loads, (tmp_path / "run/metrics.json").read_text().splitlines())
    metrics = {key: value for line in lines for key, value in line.items()}
    assert math.isfinite(metrics["total_loss"])
    assert {"bbox/AP", "bbox/APr", "bbox/APc", "bbox/APf"} <= metrics.keys()
    assert len(load_config(f"{tmp_path}/run/config.yaml").train.class_names) == 1203


def test_a_missing_package_is_told(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(DatasetError, match=r"lvis_v1_tiny.*pip install lvis"):
        dataset_records(NAME)
