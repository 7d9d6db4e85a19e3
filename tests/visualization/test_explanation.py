"""What is explained is what the detector computes: weights times values is what was read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bright_squares import BrightSquares
from small_detectors import CONFIGS, make_predictor
from torch import nn

from sap_detr.layers import DeformableAttention, MultiheadAttention, split_heads
from sap_detr.layers import linear as apply_linear
from sap_detr.modeling import LayerMemory, cxcywh_to_xyxy
from sap_detr.visualization import Predictor, explain

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


def values_read(module: nn.Module, args: tuple) -> torch.Tensor:
    """The values (M, N, V) that an attention sums up, of the first image."""
    if isinstance(module, MultiheadAttention):
        weight, bias = module.in_proj_weight.chunk(3)[2], module.in_proj_bias.chunk(3)[2]
        value = apply_linear(args[2], weight, bias)
    else:
        memory = [x for x in args if isinstance(x, LayerMemory)]
        value = memory[0].value if memory else module.value(args[0])
    return split_heads(value, module.num_heads)[0]


@pytest.fixture(params=CONFIGS, scope="module")
def explained(request):
    """A method, its explanation, and what its attentions were seen to do: reads and samples."""
    predictor = make_predictor(request.param)
    reads, samples = [], {"encoder": [], "decoder": []}
    handles = []

    def keep(module, args):
        values = values_read(module, args)
        module.out_proj.register_forward_pre_hook(
            lambda _, inputs: reads.append((module, values, inputs[0][0]))
        )

    for layer in predictor.model.decoder.layers:
        handles.append(layer.self_attn.register_forward_pre_hook(keep))
        handles.append(layer.cross_attn.register_forward_pre_hook(keep))
    compute = DeformableAttention.samples

    def sample(self, *args):
        found = compute(self, *args)
        samples["decoder" if len(args) > 2 else "encoder"].append(found)
        return found

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(DeformableAttention, "samples", sample)
        predictor(IMAGE)
    seen = [x for i, x in enumerate(reads) if x[0] is not reads[i - 1][0] or i == 0]
    for module in predictor.model.modules():
        module._forward_pre_hooks.clear()
    inputs = predictor.prepare(IMAGE)
    images = predictor.model.preprocess([inputs])
    with torch.no_grad():
        plain = predictor.model.predict(images.tensor, images.image_sizes)
    return request.param, explain(predictor, IMAGE, 4), seen, samples, plain


def test_weights_times_values_is_what_the_modules_read(explained):
    _, found, reads, _, _ = explained
    own = [x for i, x in enumerate(reads) if i % (1 if found.attention is None else 2) == 0]
    for layer, (_, values, read) in enumerate(own):
        weights = torch.from_numpy(found.self_attention[layer])
        expected = (weights.transpose(0, 1) @ values).transpose(0, 1).flatten(1)
        torch.testing.assert_close(expected, read[found.queries], rtol=1e-4, atol=1e-5)
    assert len(own) == len(found.boxes)
    cross = reads[1::2] if found.attention is not None else []
    for (_, values, read), maps in zip(cross, found.attention or (), strict=True):
        weights = torch.from_numpy(maps).flatten(2).transpose(0, 1)
        expected = (weights @ values).transpose(0, 1).flatten(1)
        torch.testing.assert_close(expected, read[found.queries], rtol=1e-4, atol=1e-5)
        assert maps.sum((-1, -2)) == pytest.approx(1, abs=1e-5)


def test_samples_are_those_of_the_deformable_attention(explained):
    method, found, _, sampled, _ = explained
    assert (found.samples is None) == (not sampled["decoder"]) == ("DINO" not in method)
    assert (found.encoder is None) == (not sampled["encoder"])
    sizes = np.array([(12, 8), (6, 4), (3, 2), (2, 1)])  # columns and rows of the levels
    if found.samples is not None:
        for (where, weights), ours in zip(sampled["decoder"], found.samples, strict=True):
            places = where[0, found.queries] / torch.from_numpy(sizes)[:, None]
            assert ours[..., :2] == pytest.approx(places.flatten(2, 3).numpy(), abs=1e-5)
            assert ours[..., 2] == pytest.approx(weights[0, found.queries].flatten(2).numpy())
        assert found.samples[..., 2].sum(-1) == pytest.approx(1, abs=1e-5)
    if found.encoder is not None:
        tokens = (found.encoder.places * sizes[0]).astype(int) @ [1, sizes[0, 0]]
        assert len(set(tokens)) == len(tokens) == 48
        for layer, (_, weights) in enumerate(sampled["encoder"]):
            expected = weights[0, tokens].flatten(2).numpy()
            assert found.encoder.samples[:, layer, ..., 2] == pytest.approx(expected)


def test_boxes_scores_and_points_are_the_predictions_of_all_layers(explained):
    method, found, _, _, plain = explained
    boxes = cxcywh_to_xyxy(plain.boxes[:, 0]).numpy()
    assert found.boxes == pytest.approx(boxes, abs=1e-5)
    scores = plain.logits[:, 0].softmax(-1)[..., :-1] if method == "DETR" else None
    scores = plain.logits[:, 0].sigmoid() if scores is None else scores
    assert found.scores == pytest.approx(scores.amax(-1).numpy(), abs=1e-5)
    assert (found.classes == scores.argmax(-1).numpy()).mean() > 0.99
    assert (found.points is None) == ("SAP" not in method)
    assert (found.cells is None) == ("SAP" not in method)
    if found.points is not None:
        assert found.points == pytest.approx(plain.points[:, 0].numpy(), abs=1e-5)
        inside = (found.points >= found.cells[:, :2] - 1e-5) & (
            found.points <= found.cells[:, 2:] + 1e-5
        )
        assert inside.all()
    assert (found.salient is None) == (method not in ("SAM-DETR", "SMCA", "SAM-DETR-MS"))
    assert (found.centres is None) == (method not in ("SAP-DETR", "SAP-Group-DETR", "SMCA"))
    if found.salient is not None:
        # Salient points are within the box that the layer was given.
        low, high = found.entering_boxes[:, None, :, :2], found.entering_boxes[:, None, :, 2:]
        assert ((found.salient >= low - 1e-5) & (found.salient <= high + 1e-5)).all()
    if method == "SMCA":
        assert found.centres == pytest.approx(found.salient, abs=1e-6)
    best = found.detected_scores[0]
    assert best == pytest.approx(scores[-1, found.queries[0]].max().item(), abs=1e-5)
    assert len(found.queries) == 4


def test_nothing_is_left_behind():
    predictor = make_predictor("SAM-DETR-MS")
    explain(predictor, IMAGE, 1)
    for module in predictor.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="BrightSquares can't be explained"):
        explain(Predictor(BrightSquares(), []), IMAGE)
