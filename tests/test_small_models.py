"""Objects that are planted on a large canvas, found by a model that has learnt something."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou
from PIL import Image, ImageDraw, ImageFilter

from sap_detr.detector import Detector

KINDS = ["ring", "star", "triangle", "ellipse", "cross", "rectangle"] * 2
COLORS = ["#dc2828", "#1e50dc", "#f0c81e", "#c828c8", "#148c5a", "#f07814"]


def draw(canvas, kind, x, y, r, color):
    box = [x - r, y - r, x + r, y + r]
    if kind == "ring":
        canvas.ellipse(box, outline=color, width=r // 3)
    elif kind == "ellipse":
        canvas.ellipse(box, fill=color)
    elif kind == "rectangle":
        canvas.rectangle(box, fill=color)
    elif kind == "cross":
        canvas.rectangle([x - r, y - r // 3, x + r, y + r // 3], fill=color)
        canvas.rectangle([x - r // 3, y - r, x + r // 3, y + r], fill=color)
    else:
        angles = [(step * math.pi / 5, 0.45 if step % 2 else 1) for step in range(10)]
        star = [(x + r * f * math.sin(a), y - r * f * math.cos(a)) for a, f in angles]
        triangle = [(x, y - r), (x + r, y + r), (x - r, y + r)]
        canvas.polygon(star if kind == "star" else triangle, fill=color)
    return box


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_sap_detr", "small_sam_detr"])
def test_planted_objects_are_each_found_once(name):
    """Wherever the seams of the tiles are, and nothing beside them."""
    shade = 150 + np.linspace(-20, 20, 4000)[None, :, None] + np.array([0, 20, -10])
    picture = Image.fromarray(np.broadcast_to(shade, (3000, 4000, 3)).astype(np.uint8))
    canvas = ImageDraw.Draw(picture)
    random = np.random.default_rng(1)
    boxes = []
    for index, kind in enumerate(KINDS):
        radius, dx, dy = random.integers((95, 300, 300), (125, 700, 700)).tolist()
        place = (index % 4 * 1000 + dx, index // 4 * 1000 + dy)
        boxes.append(draw(canvas, kind, *place, radius, COLORS[(5 * index + index // 6) % 6]))
    picture = picture.filter(ImageFilter.GaussianBlur(3))

    detector = Detector(name, "cpu")
    [found] = detector(picture, threshold=0.3, tile=(512, 512, 256), batch_size=8)
    overlaps = pairwise_iou(Boxes(torch.tensor(boxes, dtype=torch.float32)), found.pred_boxes)
    assert overlaps.max(dim=0).values.min() > 0.25
    for kind, row in zip(KINDS, overlaps, strict=True):
        own = found.pred_classes == detector.class_names.index(kind)
        assert (row[own] > 0.5).sum() == 1, kind
