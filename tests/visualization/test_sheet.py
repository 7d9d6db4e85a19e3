"""Contact sheets, and the run of a model that fills them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from torch import nn

from sap_detr.visualization import (
    SheetRow,
    class_color,
    layout,
    sheet,
    validation_rows,
)

detection_sheet = partial(sheet.detection_sheet, title="a title")
NOTHING = {"pred_boxes": Boxes(torch.zeros(0, 4)), "pred_classes": torch.zeros(0).long()}
NONE = Instances((60, 80), **NOTHING, scores=torch.zeros(0))
TRUE = Instances(
    (60, 80), gt_boxes=Boxes(torch.tensor([[10.0, 10, 40, 30]])), gt_classes=torch.tensor([1])
)


def row(height=60, width=80, truth=None, caption=""):
    return SheetRow(np.full((height, width, 3), 100, np.uint8), NONE, truth, caption)


def count(picture, color):
    return int((np.asarray(picture) == np.array(color)).all(-1).sum())


def test_the_size_follows_from_tiles_and_columns(tmp_path):
    rows = [row(caption="one"), row(height=40, caption="two"), row(caption="three")]
    out = detection_sheet(rows, tmp_path / "new" / "sheet.png", tile_width=160)
    margin, gap, line = layout.MARGIN, layout.WIDE_GAP, layout.LINE
    legend = line + layout.GAP
    width, height = Image.open(out).size
    assert width == 2 * margin + 2 * 160 + gap
    assert height == 2 * margin + legend + 2 * (120 + line) + gap


def test_truth_stands_beside_the_detections(tmp_path):
    rows = [row(truth=TRUE)]
    beside = Image.open(detection_sheet(rows, tmp_path / "a.png", ["a", "b"], tile_width=240))
    left = beside.crop((layout.MARGIN, 80, layout.MARGIN + 240, beside.height))
    right = beside.crop((layout.MARGIN + 244, 80, beside.width, beside.height))
    ys, xs = np.nonzero((np.asarray(left) == np.array(class_color(1))).all(-1))
    assert (xs.min(), xs.max() + 1, ys.max() + 1 - ys.min()) == (30, 120, 60)
    assert count(right, class_color(1)) == 0


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        detection_sheet([], tmp_path / "a.png")


class FindsTheTruth(nn.Module):
    """Detects one object of class 1 at a known place, and one with a low score."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen += [inputs["file_name"] for inputs in batch]
        size = (batch[0]["height"], batch[0]["width"])
        boxes = Boxes(torch.tensor([[10.0, 10, 40, 30], [50, 40, 70, 55]]))
        scores, classes = torch.tensor([0.9, 0.1]), torch.tensor([1, 0])
        found = Instances(size, pred_boxes=boxes, scores=scores, pred_classes=classes)
        return [{"instances": found}]


def test_a_validation_sheet_shows_images_spread_over_the_data(tmp_path):
    records = []
    for i in range(7):
        file = tmp_path / f"{i}.png"
        Image.new("RGB", (80, 60), (100, 100, 100)).save(file)
        box = {"bbox": [10, 10, 30, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
        crowd = {**box, "bbox": [0, 0, 9, 9], "category_id": 0, "iscrowd": 1, "segmentation": {}}
        annotations = [crowd, {**box, "segmentation": [[]]}]
        records.append(
            {"file_name": str(file), "height": 60, "width": 80, "annotations": annotations}
        )
    model = FindsTheTruth().train()
    shown = validation_rows(
        model,
        records,
        lambda record: {**record, "image": torch.zeros(3, 6, 8)},
        num_images=4,
    )
    out = detection_sheet(shown, tmp_path / "sheet.png", ["a", "b"])
    assert [name[-5] for name in model.seen] == ["0", "2", "4", "6"]
    assert model.training
    assert [r.caption for r in shown][:2] == [
        "0.png: 1 true, 1 detected",
        "2.png: 1 true, 1 detected",
    ]
    true, found = shown[0].truth.gt_boxes, shown[0].detections.pred_boxes
    assert true.tensor.tolist() == found.tensor.tolist()
    assert shown[0].truth.gt_classes.tolist() == [1]
    picture = Image.open(out)
    assert count(picture, class_color(1)) > 1000
    assert count(picture, class_color(0)) == 0


def test_more_images_than_there_are(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (80, 60)).save(file)
    model = FindsTheTruth().eval()
    record = {"file_name": str(file), "annotations": []}
    assert len(validation_rows(model, [record], dict, num_images=12)) == len(model.seen) == 1
    assert not model.training
    assert validation_rows(model, [], dict) == []


def test_only_8_bit_rgb_images_are_taken(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        detection_sheet([replace(row(), image=row().image / 255)], tmp_path / "a.png")
