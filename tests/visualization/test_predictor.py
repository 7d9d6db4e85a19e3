"""Images reach the model as evaluation would give them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from sap_detr.data import to_pixels
from sap_detr.visualization import Predictor


class Remembers(nn.Module):
    scores = boxes = ()

    def forward(self, batch):
        assert not self.training
        assert not torch.is_grad_enabled()
        [self.inputs] = batch
        size = (self.inputs["height"], self.inputs["width"])
        boxes = torch.tensor(self.boxes).reshape(-1, 4)
        found = Instances(size, pred_boxes=Boxes(boxes), scores=torch.tensor(self.scores))
        return [{"instances": found}]


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_the_image_is_resized_and_in_the_models_channel_order(image_format):
    model = Remembers().train()
    predictor = Predictor(model, [T.ResizeTransform(10, 20, 5, 10)], image_format)
    image = np.empty((10, 20, 3), np.uint8)
    image[:] = (1, 2, 3)
    found = predictor(image)
    assert found.image_size == (10, 20)
    pixels = model.inputs["image"]
    assert pixels.shape == (3, 5, 10)
    assert pixels.dtype == torch.uint8
    assert pixels[:, 0, 0].tolist() == ([1, 2, 3] if image_format == "RGB" else [3, 2, 1])


def test_unknown_channel_orders_are_refused():
    with pytest.raises(ValueError, match="image_format"):
        Predictor(Remembers(), [], "GBR")


RGB = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "given", "convertible"),
    [
        (RGB / 255, r"float64 \(4, 6, 3\) with values from 0 to 0", True),
        (RGB.astype(np.float32) + 7, "values from 7 to 7", False),
        (RGB.astype(np.float32) + np.nan, "values from nan to nan", False),
        (RGB.astype(np.uint16), "uint16", True),
        (RGB > 0, "bool", False),
        (RGB[:, :, 0], r"uint8 \(4, 6\)", True),
        (RGB[:, :, :1], r"\(4, 6, 1\)", True),
        (np.zeros((4, 6, 4), np.uint8), r"\(4, 6, 4\)", True),
        (RGB.transpose(2, 0, 1), r"\(3, 4, 6\)", False),
        (RGB[None], r"\(1, 4, 6, 3\)", False),
        (RGB[:0], r"uint8 \(0, 6, 3\)", False),
        (RGB[:, :0] / 255, r"float64 \(4, 0, 3\)", False),
        (np.zeros(()), r"float64 \(\)", False),
        (np.array(None), "object", False),
        (torch.zeros(3, 4, 6), r"torch.Tensor of torch.float32 \(3, 4, 6\)", True),
        (Image.new("L", (6, 4)), "PIL.Image.Image", True),
        ("a.jpg", "a path, 'a.jpg'", False),
        (Path("a.jpg"), "a path, 'a.jpg'", False),
        (None, "NoneType", False),
        ([RGB], "list", False),
    ],
)
def test_what_is_no_image_is_refused_with_what_was_given(image, given, convertible):
    predictor = Predictor(Remembers(), [])
    with pytest.raises(ValueError, match=f"uint8 array.*{given}.*to_pixels"):
        predictor(image)
    # What the message advises does it, or gives the reason.
    if convertible:
        predictor(to_pixels(image))
    else:
        with pytest.raises(ValueError, match=r"taken are|is empty|no such file"):
            to_pixels(image)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["scores", "boxes"])
def test_predictions_that_are_not_finite_are_an_error(bad, where):
    model = Remembers()
    model.boxes, model.scores = (1.0, 2.0, 3.0, 4.0) * 2, (0.5, 0.4)
    predictor = Predictor(model, [])
    assert len(predictor(RGB)) == 2
    setattr(model, where, (*getattr(model, where)[:-1], bad))
    with pytest.raises(FloatingPointError, match="1 of 2 detections"):
        predictor(RGB)
