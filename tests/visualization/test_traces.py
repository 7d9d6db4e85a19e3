"""What is recorded is what the decoder computes, and recording leaves no trace."""

import numpy as np
import pytest
import torch
from small_detectors import make_predictor

from sap_detr.modeling import (
    DetrDecoder,
    FeatureMap,
    Predictions,
    SapDetrDecoder,
    SigmoidTopKPostprocessor,
    SoftmaxPostprocessor,
    cxcywh_to_xyxy,
)
from sap_detr.modeling.decoders import layer as decoder_layer
from sap_detr.visualization import QueryTrace, check_points, explain
from sap_detr.visualization.explanation import explain_decoder
from sap_detr.visualization.recording import DecoderRecorder

LAYERS, HEADS, GRID = 3, 4, (2, 3)


def make_decoder(**options) -> SapDetrDecoder:
    decoder = SapDetrDecoder(3, GRID, LAYERS, 32, HEADS, 16, **options).eval()
    with torch.no_grad():
        for name, tensor in decoder.named_parameters():
            if "_heads" in name:
                tensor.normal_(std=0.3)
    return decoder


def make_memory(padded: bool) -> list[FeatureMap]:
    """Two images on a map of 5 x 7 cells; if padded, the first has 4 x 6."""
    mask = None
    if padded:
        mask = torch.zeros(2, 5, 7, dtype=torch.bool)
        mask[0, 4:], mask[0, :, 6:] = True, True
    return [FeatureMap(torch.randn(2, 32, 5, 7), torch.randn(2, 32, 5, 7), mask)]


def explained(decoder, memory, queries):
    with DecoderRecorder(decoder) as recorder:
        decoder(memory)
    return explain_decoder(recorder, queries)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"gaussian_form": "folded"}, {"gaussian": False}, {"padding_invariant": True}]
)
def test_weights_times_values_is_what_the_module_reads(options, padded):
    decoder = make_decoder(**options)
    attended = [{} for _ in range(LAYERS)]
    for layer, inputs in zip(decoder.layers, attended, strict=True):
        layer.cross_attn.out_proj.register_forward_pre_hook(
            lambda module, args, inputs=inputs: inputs.setdefault("first", args[0])
        )
    with torch.no_grad(), DecoderRecorder(decoder) as recorder:
        decoder(make_memory(padded))
    queries = [4, 0, 5]
    for record, expected in zip(recorder.layers, attended, strict=True):
        _, cross = record.attentions
        weights = cross.weights(queries)
        assert weights.shape == (HEADS, len(queries), 35)
        found = (weights @ cross.value[0]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(found, expected["first"][0, queries], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding_invariant", [True, False])
def test_centres_are_those_of_the_gaussians(monkeypatch, padding_invariant):
    decoder = make_decoder(padding_invariant=padding_invariant)
    used = []
    attend = decoder_layer.gaussian_attention
    monkeypatch.setattr(
        decoder_layer,
        "gaussian_attention",
        lambda *args, **kwargs: (used.append(args[3]), attend(*args, **kwargs))[1],
    )
    centres = explained(decoder, make_memory(padded=True), [4])["centres"]
    for layer in range(LAYERS):
        expected = used[2 * layer][0, :, 4] / torch.tensor([6, 4])
        torch.testing.assert_close(torch.from_numpy(centres[layer, :, 4]), expected)


def test_a_sharp_gaussian_attracts_all_attention_to_the_cell_of_its_centre():
    decoder = make_decoder()
    with torch.no_grad():
        decoder.reference_sides.fill_(-20)
        for heads in (decoder.sides_heads, decoder.point_heads):
            for head in heads:
                head.layers[-1].weight.zero_()
                head.layers[-1].bias.zero_()
        for layer in decoder.layers:
            head = layer.cross_attn.gaussian_head.layers[-1]
            head.weight.zero_()
            head.bias.fill_(40)
    found = explained(decoder, make_memory(padded=False), range(6))
    for query in range(6):
        attention = found["attention"][0][query].reshape(HEADS, -1)
        rows, columns = attention.argmax(1) // 7, attention.argmax(1) % 7
        assert (rows == int(found["centres"][0, 0, query, 1] * 5)).all()
        assert (columns == int(found["centres"][0, 0, query, 0] * 7)).all()


def test_points_and_boxes_are_followed_through_all_layers():
    decoder, memory = make_decoder(), make_memory(padded=True)
    given = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda module, args: given.append(args[1]))
    with DecoderRecorder(decoder) as recorder:
        last = decoder(memory, all_layers=False)
    plain = decoder(memory)
    torch.testing.assert_close(last.boxes[-1], plain.boxes[-1])
    torch.testing.assert_close(recorder.predictions.boxes, plain.boxes)
    found = explain_decoder(recorder, [5, 1])
    points = plain.points[:, 0].detach().numpy()
    assert found["points"] == pytest.approx(points, abs=1e-6)
    for layer, position in enumerate(given[:LAYERS]):
        entering = position.points[0].detach().numpy()
        assert found["entering_points"][layer] == pytest.approx(entering, abs=1e-6)
        boxes, sides = found["entering_boxes"][layer], position.sides[0].detach()
        expected = (sides[:, :2] + sides[:, 2:]).numpy()
        assert boxes[:, 2:] - boxes[:, :2] == pytest.approx(expected, abs=1e-6)
    cells = found["cells"]
    assert (points >= cells[:, :2]).all()
    assert (points <= cells[:, 2:]).all()
    for maps in found["attention"]:
        assert maps.shape == (2, HEADS, 4, 6)
        assert maps.sum((-1, -2)) == pytest.approx(1, abs=1e-5)
    assert cells[5] == pytest.approx([2 / 3, 1 / 2, 1, 1], abs=1e-3)
    assert cells[1] == pytest.approx([1 / 3, 0.001, 2 / 3, 0.501], abs=1e-3)


def test_without_gaussians_there_are_no_centres():
    found = explained(make_decoder(gaussian=False), make_memory(padded=False), [0])
    assert "centres" not in found


def test_nothing_is_left_behind_even_after_an_error():
    decoder, memory = make_decoder(), make_memory(padded=False)
    recorder = DecoderRecorder(decoder)
    with pytest.raises(ValueError, match="single feature level"), recorder:
        decoder(memory * 2)
    for module in decoder.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert decoder(memory, all_layers=False).boxes.shape[0] == 1
    assert not recorder.layers


@pytest.mark.parametrize("method", ["SAP-DETR", "SAP-DINO-DETR"])
def test_a_trace_is_what_is_explained_of_one_query(method):
    predictor = make_predictor(method)
    check_points(predictor.model.decoder)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    found = explain(predictor, image, queries=[7, 3])
    for index, query in enumerate([7, 3]):
        trace = QueryTrace.of(found, index)
        assert trace.query == query
        for name in ("points", "boxes", "entering_points", "entering_boxes"):
            assert (getattr(trace, name) == getattr(found, name)[:, query]).all()
        low, high = found.cells[query, :2], found.cells[query, 2:]
        assert (trace.cell == found.cells[query]).all()
        if method == "SAP-DETR":
            assert (trace.start == low).all()
            assert (trace.centres == found.centres[:, :, query]).all()
            assert (trace.attention[-1] == found.attention[-1][index]).all()
            assert trace.samples is None
        else:
            assert (trace.start == (low + high) / 2).all()
            assert (trace.samples == found.samples[:, index]).all()
            assert trace.centres is None
            assert trace.attention is None


def test_decoders_without_points_are_refused():
    for decoder, message in [
        (DetrDecoder(3, 5, 1, 32, 4, 16), "DetrDecoder"),
        (make_predictor("DINO").model.decoder, "are boxes"),
        (torch.nn.Identity(), "Identity"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_points(decoder)
    detr = make_predictor("DETR")
    with pytest.raises(ValueError, match="queries of a DetrDecoder have no points"):
        QueryTrace.of(explain(detr, np.zeros((64, 96, 3), np.uint8)), 0)


@pytest.mark.parametrize("postprocessor", [SigmoidTopKPostprocessor(7), SoftmaxPostprocessor()])
def test_detections_know_their_queries(postprocessor):
    predictions = Predictions(logits=torch.randn(1, 2, 6, 4), boxes=torch.rand(1, 2, 6, 4))
    found = postprocessor(predictions, [(10, 20), (30, 40)])
    for image, (instances, scale) in enumerate(zip(found, [(20, 10), (40, 30)], strict=True)):
        boxes = cxcywh_to_xyxy(predictions.boxes[0, image, instances.query_index])
        expected = boxes * torch.tensor(scale * 2)
        torch.testing.assert_close(instances.pred_boxes.tensor, expected)
        logits = predictions.logits[0, image, instances.query_index]
        sigmoid = isinstance(postprocessor, SigmoidTopKPostprocessor)
        scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
        of_class = scores.gather(1, instances.pred_classes[:, None])[:, 0]
        torch.testing.assert_close(instances.scores, of_class)
