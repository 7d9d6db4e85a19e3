"""Evaluates made-up detections in the processes of a job, for sets of several sizes.

Usage: evaluate_detections.py FOLDER SIZE ... -- CHANGE ...
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import nn

from sap_detr.config import load_config
from sap_detr.engine import DetectionTrainer, ProcessOptions, launch, prepare_data
from sap_detr.engine.main import argument_parser
from sap_detr.engine.topology import find_topology


class MadeUpDetections(nn.Module):
    """Finds the objects of an image, not quite where they are; in every third image nothing."""

    def __init__(self, dataset):
        super().__init__()
        self.annotations = {d["image_id"]: d["annotations"] for d in DatasetCatalog.get(dataset)}
        self.seen = []

    def forward(self, batch):
        return [{"instances": self.detect(record)} for record in batch]

    def detect(self, record):
        self.seen.append(record["image_id"])
        random = np.random.RandomState(record["image_id"])
        objects = self.annotations[record["image_id"]]
        objects = [] if record["image_id"] % 3 == 1 else objects
        boxes = np.array([o["bbox"] for o in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes += random.uniform(-2, 2, boxes.shape)
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
        found.scores = torch.as_tensor(random.uniform(size=len(objects)))
        found.pred_classes = torch.as_tensor([o["category_id"] for o in objects], dtype=torch.int64)
        return found


def evaluate(stop, folder, size, changes):
    name = f"detected{size}"
    changes = [*changes, f"dataset.name={name}", f"dataset.folder={folder}/{name}"]
    cfg = load_config("detr/detr_small_shapes.py", [*changes, f"dataset.num_val={size}"])
    prepare_data(cfg)
    model = MadeUpDetections(f"{name}_val")
    results = DetectionTrainer.test(cfg, model)
    seen = comm.all_gather(model.seen)
    if comm.is_main_process():
        report = {"seen": seen, "results": results}
        (Path(folder) / f"{size}_of_{comm.get_world_size()}.json").write_text(json.dumps(report))


def evaluate_all(stop, folder, sizes, changes):
    for size in sizes:
        evaluate(stop, folder, int(size), changes)


if __name__ == "__main__":
    split = sys.argv.index("--")
    topology = find_topology(argument_parser().parse_args([]), os.environ)
    work = (sys.argv[1], sys.argv[2:split], sys.argv[split + 1 :])
    sys.exit(launch(evaluate_all, topology, work, ProcessOptions()))
