"""What is recorded is what the decoder computes, and recording leaves no trace."""

import pytest
import torch

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
from sap_detr.visualization import PointRecorder

LAYERS, HEADS, GRID = 3, 4, (2, 3)


def make_decoder(**options) -> SapDetrDecoder:
    decoder = SapDetrDecoder(3, GRID, LAYERS, 32, HEADS, 16, **options).eval()
    with torch.no_grad():
        for name, tensor in decoder.named_parameters():
            if "_heads" in name:
                tensor.normal_(std=0.3)
    return decoder


def make_memory(padded: bool) -> list[FeatureMap]:
    """Two images on a map of 5 x 7 cells; if padded, the second has 4 x 6."""
    mask = None
    if padded:
        mask = torch.zeros(2, 5, 7, dtype=torch.bool)
        mask[1, 4:], mask[1, :, 6:] = True, True
    return [FeatureMap(torch.randn(2, 32, 5, 7), torch.randn(2, 32, 5, 7), mask)]


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
    with torch.no_grad(), PointRecorder(decoder) as recorder:
        decoder(make_memory(padded))
    assert len(recorder.by_layer()) == LAYERS
    queries = [4, 0, 5]
    for (_, cross, _), expected in zip(recorder.by_layer(), attended, strict=True):
        for image in range(2):
            weights = cross.attention.weights(image, queries)
            assert weights.shape == (HEADS, len(queries), 35)
            found = (weights @ cross.attention.value[image]).transpose(0, 1).flatten(1)
            torch.testing.assert_close(
                found, expected["first"][image, queries], rtol=1e-5, atol=1e-6
            )


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
    with PointRecorder(decoder) as recorder:
        decoder(make_memory(padded=True))
    (trace,) = recorder.traces([4], image=1)
    for layer in range(LAYERS):
        expected = used[2 * layer][1, :, 4] / torch.tensor([6, 4])
        torch.testing.assert_close(torch.from_numpy(trace.centres[layer]), expected)


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
    with PointRecorder(decoder) as recorder:
        decoder(make_memory(padded=False))
    for trace in recorder.traces(range(6)):
        attention = trace.attention[0].reshape(HEADS, -1)
        rows, columns = attention.argmax(1) // 7, attention.argmax(1) % 7
        assert (rows == int(trace.centres[0, 0, 1] * 5)).all()
        assert (columns == int(trace.centres[0, 0, 0] * 7)).all()


def test_traces_follow_points_and_boxes_through_all_layers():
    decoder, memory = make_decoder(), make_memory(padded=True)
    given = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda module, args: given.append(args[1]))
    with PointRecorder(decoder) as recorder:
        last = decoder(memory, all_layers=False)
    plain = decoder(memory)
    torch.testing.assert_close(last.boxes[-1], plain.boxes[-1])
    traces = recorder.traces([5, 1], image=1)
    assert [trace.query for trace in traces] == [5, 1]
    for trace in traces:
        query = trace.query
        boxes = cxcywh_to_xyxy(plain.boxes[:, 1, query]).detach().numpy()
        assert trace.points == pytest.approx(plain.points[:, 1, query].detach().numpy(), abs=1e-6)
        assert trace.boxes == pytest.approx(boxes, abs=1e-6)
        for layer in range(LAYERS):
            position = given[layer]
            image = min(1, len(position.points) - 1)
            point, sides = position.points[image, query], position.sides[image, query]
            assert trace.entering_points[layer] == pytest.approx(point.tolist(), abs=1e-6)
            sizes = trace.entering_boxes[layer, 2:] - trace.entering_boxes[layer, :2]
            assert sizes == pytest.approx((sides[:2] + sides[2:]).tolist(), abs=1e-6)
        assert (trace.points >= trace.cell[:2]).all()
        assert (trace.points <= trace.cell[2:]).all()
        assert trace.start == pytest.approx(trace.cell[:2])
        assert trace.attention.shape == (LAYERS, HEADS, 4, 6)
        assert trace.attention.sum((-1, -2)) == pytest.approx(1, abs=1e-5)
    assert traces[0].cell == pytest.approx([2 / 3, 1 / 2, 1, 1], abs=1e-3)
    assert traces[1].cell == pytest.approx([1 / 3, 0.001, 2 / 3, 0.501], abs=1e-3)
    assert recorder.traces([5])[0].attention.shape == (LAYERS, HEADS, 5, 7)


def test_without_gaussians_there_are_no_centres():
    decoder = make_decoder(gaussian=False)
    with PointRecorder(decoder) as recorder:
        decoder(make_memory(padded=False))
    assert recorder.traces([0])[0].centres is None


def test_nothing_is_left_behind_even_after_an_error():
    decoder, memory = make_decoder(), make_memory(padded=False)
    recorder = PointRecorder(decoder)
    with pytest.raises(ValueError, match="single feature level"), recorder:
        decoder(memory * 2)
    for module in decoder.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert decoder(memory, all_layers=False).boxes.shape[0] == 1
    assert not recorder.events


def test_nothing_recorded_is_an_error():
    with pytest.raises(RuntimeError, match="nothing is recorded"):
        PointRecorder(make_decoder()).traces([0])


def test_decoders_without_points_are_refused():
    with pytest.raises(ValueError, match="DetrDecoder"):
        PointRecorder(DetrDecoder(3, 5, 1, 32, 4, 16))


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
