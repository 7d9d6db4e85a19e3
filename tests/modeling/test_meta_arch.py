import copy
from dataclasses import replace

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn

from sap_detr.config import load_config
from sap_detr.layers import resize_pixels
from sap_detr.modeling import DetectionTransformer, Predictions, padded_image_sizes

SIZES = [(64, 64), (70, 90)]


@pytest.fixture(scope="module")
def model(build_tiny_detr) -> DetectionTransformer:
    """In float64 and evaluation mode; not to be changed."""
    return build_tiny_detr().double().eval()


@pytest.fixture(scope="module")
def inputs(make_inputs) -> list[dict]:
    return make_inputs(SIZES, (2, 1))


def predict(
    model: DetectionTransformer, inputs: list[dict], all_layers: bool = True
) -> Predictions:
    images = model.preprocess(inputs)
    with torch.no_grad():
        return model.predict(images.tensor, images.image_sizes, all_layers)


def assert_same(a: Predictions, b: Predictions, atol: float = 0.0) -> None:
    for name in ("logits", "boxes"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=atol)


def test_is_registered_with_detectron2():
    assert META_ARCH_REGISTRY.get("DetectionTransformer") is DetectionTransformer


def test_training_returns_losses(build_tiny_detr, inputs):
    losses = build_tiny_detr().train()(inputs)
    names = ("loss_class", "loss_bbox", "loss_giou")
    assert losses.keys() == {name + suffix for name in names for suffix in ("", "_0")}
    assert all(loss.shape == () and loss.requires_grad and loss > 0 for loss in losses.values())


def test_training_divides_by_the_number_of_objects_that_it_is_given(build_tiny_detr, inputs):
    model = build_tiny_detr().train()
    mine, halved = model(inputs), model(inputs, num_objects=6.0)
    torch.testing.assert_close(halved["loss_bbox"], mine["loss_bbox"] / 2)
    torch.testing.assert_close(halved["loss_class"], mine["loss_class"])


def test_inference_returns_instances(model, inputs):
    with torch.no_grad():
        results = model(inputs)
    assert [list(result) for result in results] == [["instances"]] * 2
    for result, size in zip(results, SIZES, strict=True):
        instances = result["instances"]
        assert isinstance(instances, Instances)
        assert instances.image_size == size
        assert isinstance(instances.pred_boxes, Boxes)
        assert len(instances) == 6
        assert set(instances.pred_classes.tolist()) <= {0, 1, 2}
        assert ((instances.scores > 0) & (instances.scores < 1)).all()


def test_detections_refer_to_the_asked_for_size(model, inputs):
    asked = [{**inputs[0], "height": 640, "width": 320}, inputs[1]]
    with torch.no_grad():
        plain, scaled = model(inputs), model(asked)
    assert scaled[0]["instances"].image_size == (640, 320)
    factor = torch.tensor([5, 10, 5, 10])
    found, expected = (x[0]["instances"].pred_boxes.tensor for x in (scaled, plain))
    torch.testing.assert_close(found, expected * factor)
    assert torch.equal(scaled[0]["instances"].scores, plain[0]["instances"].scores)
    assert torch.equal(
        scaled[1]["instances"].pred_boxes.tensor, plain[1]["instances"].pred_boxes.tensor
    )


def test_boxes_are_fractions_of_the_unpadded_image(model, inputs):
    predictions = predict(model, inputs)
    with torch.no_grad():
        results = model(inputs)
    for image, (height, width) in enumerate(SIZES):
        x, y, w, h = predictions.boxes[-1, image].unbind(-1)
        expected = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=-1)
        expected = expected * torch.tensor([width, height, width, height])
        found = results[image]["instances"].pred_boxes.tensor
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-4)


def test_a_resize_may_be_left_to_the_model(model):
    generator = torch.Generator().manual_seed(0)
    small, other = (
        torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in ((40, 50), (70, 60))
    )
    left = model.preprocess([{"image": small, "resize_to": (64, 80)}, {"image": other}])
    ready = model.preprocess([{"image": resize_pixels(small, (64, 80))}, {"image": other}])
    assert left.image_sizes == [(64, 80), (70, 60)]
    assert torch.equal(left.tensor, ready.tensor)


def test_images_are_normalised_before_they_are_padded_with_zeros(model, inputs):
    images = model.preprocess(inputs)
    assert images.tensor.shape == (2, 3, 70, 90)
    assert images.tensor.dtype == torch.float64
    assert images.image_sizes == SIZES
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    for channel in range(3):
        expected = (inputs[0]["image"][channel].double() - mean[channel]) / std[channel]
        found = images.tensor[0, channel, :64, :64]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not images.tensor[0, :, 64:].any()
    assert not images.tensor[0, :, :, 64:].any()


def test_bgr_images_are_turned_into_rgb(build_tiny_detr, model, inputs):
    bgr = build_tiny_detr("model.input_format=BGR").double().eval()
    flipped = [{**x, "image": x["image"].flip(0)} for x in inputs]
    assert_same(predict(bgr, flipped), predict(model, inputs))
    assert not torch.equal(predict(bgr, inputs).logits, predict(model, inputs).logits)


def test_unknown_channel_order_is_an_error(build_tiny_detr):
    with pytest.raises(ValueError, match="'RGB' or 'BGR', got 'GRB'"):
        build_tiny_detr("model.input_format=GRB")


@pytest.mark.parametrize("config", ["detr/detr_r50_500ep.py", "detr/detr_dc5_r50_500ep.py"])
@pytest.mark.parametrize(
    "num_classes, total, trained",
    [(91, 41_524_768, 41_302_368), (80, 41_521_941, 41_299_541)],
)
def test_number_of_parameters_is_published(config, num_classes, total, trained):
    cfg = load_config(config, [f"model.num_classes={num_classes}"])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    assert model.num_classes == num_classes


def test_one_layer_is_the_last_of_all(model, inputs):
    every, last = predict(model, inputs), predict(model, inputs, all_layers=False)
    assert every.logits.shape[0] == 2
    assert last.logits.shape[0] == 1
    assert not torch.equal(every.logits[0], every.logits[1])
    assert_same(last, every.last_layer, atol=1e-14)


@pytest.fixture
def padded(make_inputs) -> list[dict]:
    return make_inputs([(64, 64), (100, 121)], (1, 1))


def test_features_under_the_mask_change_nothing(model, padded):
    images = model.preprocess(padded)
    with torch.no_grad():
        features = model.backbone(images.tensor)
        padded_size = tuple(images.tensor.shape[-2:])
        sizes = padded_image_sizes(images.image_sizes, padded_size, model.device)
        (level,) = model.neck(features, sizes, padded_size)
        mask = level.padding_mask[:, None]
        assert mask[0].any()
        noise = torch.where(mask, 100 * torch.randn_like(level.features), level.features)
        memory, noisy = (
            model.encoder([replace(level, features=x)]) for x in (level.features, noise)
        )
        valid = ~mask.expand_as(noise)
        assert torch.equal(memory[0].features[valid], noisy[0].features[valid])
        assert_same(model.decoder(noisy), model.decoder(memory))


def test_an_image_as_large_as_its_batch_is_not_affected(model, padded):
    alone, together = predict(model, padded[1:]), predict(model, padded)
    assert_same(Predictions(together.logits[:, 1:], together.boxes[:, 1:]), alone, atol=1e-12)


def test_the_order_of_the_images_does_not_matter(model, padded):
    forth, back = predict(model, padded), predict(model, padded[::-1])
    assert_same(Predictions(forth.logits.flip(1), forth.boxes.flip(1)), back, atol=1e-12)


def test_the_backbone_reads_the_padding(model, padded):
    """As published: zeros do not stay zeros after the first norm."""
    alone, together = predict(model, padded[:1]), predict(model, padded)
    assert (together.boxes[:, :1] - alone.boxes).abs().max() > 1e-3


@pytest.mark.parametrize(("num_stages", "norm_groups"), [(3, "null"), (4, "null"), (3, 8)])
@pytest.mark.parametrize("size", [(100, 121), (190, 64), (143, 191), (64, 161)])
def test_padding_invariant_predictions_are_those_of_the_image_alone(
    build_tiny_detr, make_inputs, size, num_stages, norm_groups
):
    stage, channels = f"res{num_stages + 1}", 4 * 2**num_stages
    model = build_tiny_detr(
        "model.padding_invariant=True",
        f"model.backbone.blocks_per_stage={[1] * num_stages}",
        f"model.backbone.out_features=[{stage}]",
        f"model.neck.in_features=[{stage}]",
        f"model.neck.in_channels=[{channels}]",
        f"model.neck.norm_groups={norm_groups}",
    )
    model = model.double().eval()
    batch = make_inputs([(143, 61), size], (1, 1))
    together = predict(model, batch)
    for image in range(2):
        alone = predict(model, batch[image : image + 1])
        mine = Predictions(together.logits[:, [image]], together.boxes[:, [image]])
        assert_same(mine, alone, atol=1e-12)


def test_float32_agrees_with_float64(build_tiny_detr, model, inputs):
    single = predict(build_tiny_detr().eval(), inputs)
    assert single.logits.dtype == single.boxes.dtype == torch.float32
    double = predict(model, inputs)
    assert double.logits.dtype == double.boxes.dtype == torch.float64
    assert_same(Predictions(single.logits.double(), single.boxes.double()), double, atol=1e-4)


def test_bfloat16_agrees_and_returns_full_precision(build_tiny_detr, inputs):
    model = build_tiny_detr().eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = predict(model, inputs)
        model.train()
        losses = model(inputs)
    model.eval()
    assert half.logits.dtype == half.boxes.dtype == torch.float32
    difference = (half.boxes - predict(model, inputs).boxes).abs().max()
    assert 0 < difference < 2e-2
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("sizes", [SIZES, [(64, 64), (64, 64)]], ids=["padded", "unpadded"])
def test_compiles_as_one_graph(model, make_inputs, sizes):
    images = model.preprocess(make_inputs(sizes, (1, 1)))
    compiled = torch.compile(model.predict, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        expected = model.predict(images.tensor, images.image_sizes)
        found = compiled(images.tensor, images.image_sizes)
    assert_same(found, expected, atol=1e-10)
    torch._dynamo.reset()


def test_a_copy_is_the_same_and_independent(model, inputs):
    duplicate = copy.deepcopy(model)
    assert_same(predict(duplicate, inputs), predict(model, inputs))
    with torch.no_grad():
        nn.init.normal_(duplicate.decoder.query_embed.weight)
    assert not torch.equal(predict(duplicate, inputs).boxes, predict(model, inputs).boxes)


def test_state_dict_makes_another_model_the_same(build_tiny_detr, model, inputs):
    other = build_tiny_detr(seed=1).double().eval()
    assert not torch.equal(predict(other, inputs).boxes, predict(model, inputs).boxes)
    other.load_state_dict(model.state_dict())
    assert_same(predict(other, inputs), predict(model, inputs))


def test_pixel_statistics_are_no_weights(model):
    assert not any("pixel" in name for name in model.state_dict())
    assert copy.deepcopy(model).float().pixel_mean.dtype == torch.float32


@pytest.mark.parametrize("padded", [True, False])
def test_sizes_are_padded_to_a_multiple(build_tiny_detr, make_inputs, padded):
    model = build_tiny_detr("model.size_multiple=32").double().eval()
    inputs = make_inputs([(64, 64), (60, 50)] if padded else [(64, 64)], (1, 1)[: 1 + padded])
    images = model.preprocess(inputs)
    assert images.tensor.shape[-2:] == (64, 64)
    assert images.image_sizes == [tuple(x["image"].shape[-2:]) for x in inputs]
    larger = model.preprocess(make_inputs([(65, 40)], (1,)))
    assert larger.tensor.shape[-2:] == (96, 64)


def test_multiple_changes_nothing_where_sizes_have_it(build_tiny_detr, model, make_inputs):
    multiple = build_tiny_detr("model.size_multiple=32").double().eval()
    inputs = make_inputs([(64, 96), (64, 96)], (1, 1))
    assert_same(predict(multiple, inputs), predict(model, inputs), atol=1e-12)


def test_multiple_below_one_is_an_error(build_tiny_detr):
    with pytest.raises(ValueError, match="size_multiple must be at least 1, got 0"):
        build_tiny_detr("model.size_multiple=0")


def test_compiled_network_is_reused_for_images_of_other_sizes(build_tiny_detr, make_inputs):
    model = build_tiny_detr("model.size_multiple=32").eval()
    batches = [make_inputs([size], (1,)) for size in [(64, 64), (50, 61), (33, 40), (64, 64)]]
    expected = [predict(model, inputs) for inputs in batches]
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model.compile_network(backend=backend, fullgraph=True, dynamic=False)
    for inputs, without in zip(batches, expected, strict=True):
        assert_same(predict(model, inputs), without, atol=1e-5)
    assert len(graphs) == 1
    predict(model, make_inputs([(70, 64)], (1,)))
    assert len(graphs) == 2


def test_sizes_beyond_the_limit_of_torch_are_compiled(build_tiny_detr, make_inputs):
    model = build_tiny_detr("model.size_multiple=32").eval()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model.compile_network(backend=backend, dynamic=False)
    for height in range(32, 384, 32):
        predict(model, make_inputs([(height, 32)], (1,)))
    assert len(graphs) == 11


def test_compiled_network_trains_the_same(build_tiny_detr, make_inputs):
    model = build_tiny_detr("model.encoder.dropout=0", "model.decoder.dropout=0").train()
    gradients = []
    for compiled in (False, True):
        if compiled:
            model.compile_network(backend="aot_eager", fullgraph=True)
        model.zero_grad()
        sum(model(make_inputs([(64, 64), (50, 61)], (2, 1))).values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = gradient.abs().max() + 1e-3
        assert (gradients[1][name] - gradient).abs().max() < 1e-3 * scale, name
