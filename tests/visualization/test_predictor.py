"""Images reach the model as evaluation would give them."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import nn

from sap_detr.visualization import Predictor


class Remembers(nn.Module):
    def forward(self, batch):
        assert not self.training
        assert not torch.is_grad_enabled()
        [self.inputs] = batch
        size = (self.inputs["height"], self.inputs["width"])
        return [{"instances": Instances(size, pred_boxes=Boxes(torch.zeros(0, 4)))}]


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
