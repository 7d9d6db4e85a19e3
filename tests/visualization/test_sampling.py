"""Where SAP-DINO-DETR's queries sample, as it is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from small_detectors import make_predictor
from tiny_models import make_batch, make_model, predict

from sap_detr.layers import DeformableAttention
from sap_detr.modeling import Pyramid, cxcywh_to_xyxy
from sap_detr.visualization import QueryTrace, attention_sheet, draw_points, explain
from sap_detr.visualization.explanation import explain_decoder
from sap_detr.visualization.recording import DecoderRecorder


def test_what_is_explained_is_what_the_decoder_did():
    model, batch = make_model("sap_dino", away=0.2).eval(), make_batch()[::-1]
    sampled, memory = [], []
    compute = DeformableAttention.samples

    def keep(self, *args):
        result = compute(self, *args)
        if len(args) > 2:  # a decoder's: with sides
            sampled.append(result)
        return result

    model.encoder.register_forward_hook(lambda module, args, result: memory.append(result))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeformableAttention, "samples", keep)
        plain = predict(model, batch)
    with DecoderRecorder(model.decoder) as recorder, torch.no_grad():
        predict(model, batch, all_layers=False)
    found, pyramid = explain_decoder(recorder, [7, 3]), Pyramid.of(memory[0])
    extents = pyramid.extents[0]
    assert (extents[0] < torch.tensor(pyramid.sizes[0][::-1])).any()  # it is padded
    boxes = cxcywh_to_xyxy(recorder.predictions.boxes[:, 0]).numpy()
    assert boxes == pytest.approx(cxcywh_to_xyxy(plain.boxes[:, 0]).detach().numpy(), abs=1e-5)
    points, cells = plain.points[:, 0].detach().numpy(), found["cells"]
    assert found["points"] == pytest.approx(points, abs=1e-5)
    assert (points >= cells[:, :2] - 1e-6).all()
    assert (points <= cells[:, 2:] + 1e-6).all()
    level = pyramid.level[plain.proposals.tokens[0]]
    assert cells[:, 2:] - cells[:, :2] == pytest.approx((1 / extents[level]).numpy(), abs=1e-6)
    first = plain.proposals.points[0, 0].detach().numpy()
    assert found["entering_points"][0] == pytest.approx(first, abs=1e-5)
    assert (found["entering_boxes"][..., :2] < found["entering_points"]).all()
    assert (found["entering_boxes"][..., 2:] > found["entering_points"]).all()
    # 4 heads, and 4 points on each of 4 levels.
    assert found["samples"].shape == (3, 2, 4, 16, 3)
    assert found["samples"][..., 2].sum(-1) == pytest.approx(1, abs=1e-5)
    for ours, (locations, weights) in zip(found["samples"], sampled[:3], strict=True):
        where = (locations[0, [7, 3]] / extents[:, None]).flatten(2, 3).detach().numpy()
        assert ours[..., :2] == pytest.approx(where, abs=1e-4)
        share = weights[0, [7, 3]].flatten(2).detach().numpy()
        assert ours[..., 2] == pytest.approx(share, abs=1e-5)
    assert "attention" not in found
    for module in model.decoder.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_pictures(tmp_path):
    image = np.full((80, 64, 3), 128, np.uint8)
    found = explain(make_predictor("SAP-DINO-DETR"), image, queries=[7, 3])
    traces = [QueryTrace.of(found, index) for index in range(2)]
    drawn = draw_points(image, traces, [0, 1])
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    boxes = Boxes(torch.tensor([[8.0, 8, 40, 40], [4, 4, 30, 60]]))
    classes, scores = torch.tensor([0, 1]), torch.tensor([0.9, 0.5])
    detections = Instances((80, 64), pred_boxes=boxes, pred_classes=classes, scores=scores)
    file = attention_sheet(image, detections, traces, tmp_path / "sheet.png", ["a", "b"])
    with Image.open(file) as sheet:
        # The columns of layers differ, since layers sample at different places.
        assert sheet.width > 3 * 220
        assert np.asarray(sheet.convert("RGB")).std() > 10
