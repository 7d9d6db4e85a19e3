"""Run with `pytest` in this folder."""

from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances

from sap_detr.config import load_config
from sap_detr.modeling import FeatureMap

CONFIG = str(Path(__file__).with_name("point_detr.py"))


def make_batch():
    """Two images of different sizes, with one object each."""
    batch = []
    for height, width in ((64, 96), (96, 64)):
        objects = Instances((height, width), gt_classes=torch.tensor([1]))
        objects.gt_boxes = Boxes(torch.tensor([[8.0, 16.0, 40.0, 56.0]]))
        batch.append({"image": torch.rand(3, height, width) * 255, "instances": objects})
    return batch


def make_model():
    torch.manual_seed(0)
    return instantiate(load_config(CONFIG, ["model.num_classes=3"]).model)


def test_the_loss_falls_and_every_parameter_learns():
    model, batch = make_model().train(), make_batch()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    totals = []
    for _ in range(5):
        losses = model(batch)
        total = sum(value for name, value in losses.items() if name.startswith("loss"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    assert all(p.grad is not None and p.grad.any() for p in model.decoder.parameters())


def test_padding_is_not_read_and_inference_gives_the_last_layer():
    decoder = make_model().decoder.eval()
    features, position = torch.randn(2, 2, 96, 6, 8).unbind()
    padding = torch.zeros(2, 6, 8, dtype=torch.bool)
    padding[1, :, 5:] = True
    found = decoder([FeatureMap(features, position, padding)])
    assert found.boxes.shape == (3, 2, 16, 4)
    other = features.masked_fill(padding[:, None], 7.0)
    last = decoder([FeatureMap(other, position, padding)], all_layers=False)
    torch.testing.assert_close(last.boxes, found.boxes[-1:])
    torch.testing.assert_close(last.logits, found.logits[-1:])
