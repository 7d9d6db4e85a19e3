"""Where SAP-DINO-DETR's queries sample, as it is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import make_batch, make_model, predict

from sap_detr.layers import DeformableAttention
from sap_detr.modeling import Pyramid, cxcywh_to_xyxy
from sap_detr.visualization import (
    BoxSet,
    PointRecorder,
    attention_sheet,
    draw_points,
)


@pytest.fixture(scope="module")
def recorded():
    """Predictions of a padded batch, what was sampled, the memory, a recorder, and the model."""
    model, batch = make_model("sap_dino", away=0.2).eval(), make_batch()
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
    recorder = PointRecorder(model.decoder)
    with recorder, torch.no_grad():
        predict(model, batch, all_layers=False)
    return plain, sampled, Pyramid.of(memory[0]), recorder, model


def test_traces_are_what_the_decoder_did(recorded):
    plain, sampled, pyramid, recorder, _ = recorded
    traces = recorder.traces([7, 3], image=1)
    assert [trace.query for trace in traces] == [7, 3]
    extents = pyramid.extents[1]
    for trace in traces:
        query = trace.query
        boxes = cxcywh_to_xyxy(plain.boxes[:, 1, query]).detach().numpy()
        assert trace.boxes == pytest.approx(boxes, abs=1e-5)
        assert trace.points == pytest.approx(plain.points[:, 1, query].detach().numpy(), abs=1e-5)
        assert (trace.points >= trace.cell[:2] - 1e-6).all()
        assert (trace.points <= trace.cell[2:] + 1e-6).all()
        assert trace.start == pytest.approx((trace.cell[:2] + trace.cell[2:]) / 2)
        level = pyramid.level[plain.proposals.tokens[1, query]]
        assert trace.cell[2:] - trace.cell[:2] == pytest.approx((1 / extents[level]).numpy())
        first = plain.proposals.points[0, 1, query].detach().numpy()
        assert trace.entering_points[0] == pytest.approx(first, abs=1e-5)
        assert (trace.entering_boxes[:, :2] < trace.entering_points).all()
        assert (trace.entering_boxes[:, 2:] > trace.entering_points).all()
        # 4 heads, and 4 points on each of 4 levels.
        assert trace.samples.shape == (3, 4, 16, 3)
        assert trace.samples[..., 2].sum(-1) == pytest.approx(1, abs=1e-5)
        for layer, (locations, weights) in enumerate(sampled[:3]):
            where = (locations[1, query] / extents[:, None]).flatten(1, 2).detach().numpy()
            assert trace.samples[layer, ..., :2] == pytest.approx(where, abs=1e-4)
            share = weights[1, query].flatten(1).detach().numpy()
            assert trace.samples[layer, ..., 2] == pytest.approx(share, abs=1e-5)
    assert traces[0].attention is None


def test_pictures(recorded, tmp_path):
    _, _, _, recorder, _ = recorded
    traces = recorder.traces([7, 3], image=1)
    image = np.full((80, 64, 3), 128, np.uint8)
    drawn = draw_points(image, traces, [0, 1])
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    boxes = np.array([[8.0, 8, 40, 40], [4, 4, 30, 60]])
    detections = BoxSet(boxes, np.array([0, 1]), np.array([0.9, 0.5]))
    file = attention_sheet(image, detections, traces, tmp_path / "sheet.png", ["a", "b"])
    with Image.open(file) as sheet:
        # The columns of layers differ, since layers sample at different places.
        assert sheet.width > 5 * 220
        assert np.asarray(sheet.convert("RGB")).std() > 10


def test_recorders_leave_nothing_behind(recorded):
    model = recorded[-1]
    with PointRecorder(model.decoder):
        assert model.decoder._forward_hooks
    for module in model.decoder.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_decoders_without_points_are_refused():
    with pytest.raises(ValueError, match="are boxes"):
        PointRecorder(make_model("dino").decoder)
    with pytest.raises(ValueError, match="Identity"):
        PointRecorder(torch.nn.Identity())
    with pytest.raises(RuntimeError, match="nothing is recorded"):
        PointRecorder(make_model("sap_dino").decoder).traces([0])
