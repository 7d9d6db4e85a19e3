import math

import golden_cases
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import nn

from sap_detr import model_zoo
from sap_detr.modeling import (
    SAP_DETR,
    DetectionTransformer,
    FeatureMap,
    SapDetrDecoder,
    build_small_resnet,
)
from sap_detr.modeling.decoders.layer import LayerMemory
from sap_detr.modeling.decoders.point_attention import (
    PointCrossAttention,
    QueryPosition,
)
from sap_detr.modeling.reference_points import boxes_from_sides, grid_points, inverse_sigmoid

SIZES = [(70, 96), (50, 64)]


def make_model(padding_invariant: bool = False, **decoder) -> DetectionTransformer:
    """A small SAP-DETR with random weights everywhere, so that everything has an effect."""
    cfg = model_zoo.get_config("common/models/sap_detr_r50.py").model
    cfg.backbone = L(build_small_resnet)(width=4, norm="FrozenBN")
    cfg.neck.in_channels = [32]
    cfg.neck.embed_dim = 32
    cfg.encoder.update(num_layers=1, ffn_dim=48, num_heads=4)
    cfg.decoder.update(num_layers=3, ffn_dim=48, num_heads=4, grid_size=[3, 4])
    cfg.decoder.update(decoder)
    cfg.num_classes = 5
    cfg.padding_invariant = padding_invariant
    model = instantiate(cfg)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "_heads" in name or name.endswith("bias"):
                tensor.normal_(std=0.2)
    return model


def make_inputs(sizes=SIZES, num_objects=(2, 1)) -> list[dict]:
    inputs = []
    for (height, width), count in zip(sizes, num_objects, strict=True):
        corner = torch.rand(count, 2) * 20
        boxes = torch.cat((corner, corner + 5 + torch.rand(count, 2) * 20), dim=1)
        objects = Instances(
            (height, width), gt_boxes=Boxes(boxes), gt_classes=torch.randint(5, (count,))
        )
        inputs.append({"image": torch.rand(3, height, width) * 255, "instances": objects})
    return inputs


def predict(model, inputs, **options):
    images = model.preprocess(inputs)
    return model.predict(images.tensor, images.image_sizes, **options)


def largest_difference(a, b) -> float:
    names = [
        name
        for name, x in vars(b).items()
        if torch.is_tensor(x) and torch.is_tensor(getattr(a, name))
    ]
    assert {"logits", "boxes", "points"} <= set(names)
    return max((getattr(a, name) - getattr(b, name)).abs().max().item() for name in names)


def make_position(batch: int, queries: int, width: int) -> QueryPosition:
    def embedding(channels):
        return torch.randn(batch, queries, channels, dtype=torch.float64)

    points = torch.rand(batch, queries, 2, dtype=torch.float64)
    sides = torch.rand(batch, queries, 4, dtype=torch.float64) * 0.5
    embeddings = (embedding(n) for n in (width, width, width, 2 * width))
    return QueryPosition(points, sides, *embeddings)


def heads_of(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


@pytest.mark.parametrize("form", ["bias", "folded"])
@pytest.mark.parametrize("first_layer", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_cross_attention_is_the_written_out_one(form, first_layer, padded):
    """Three times the head width, keys with the position twice, the Gaussian query by query."""
    num_heads, width, (rows, columns) = 3, 12, (4, 5)
    module = PointCrossAttention(width, num_heads, 0.0, True, form).double()
    content = torch.randn(2, 6, width, dtype=torch.float64)
    position = make_position(1 if first_layer else 2, 6, width)
    tokens = torch.randn(2, rows * columns, width, dtype=torch.float64)
    encoding = torch.randn(1, rows * columns, width, dtype=torch.float64)
    mask = None
    if padded:
        mask = torch.zeros(2, rows, columns, dtype=torch.bool)
        mask[1, 3:] = True
        mask = mask.flatten(1)
    shared = torch.randn(1, 6, width, dtype=torch.float64) if first_layer else None
    extent = torch.tensor([[columns, rows]], dtype=torch.float64)

    query_content = module.query_content(content)
    key_content, key_position = module.key_content(tokens), module.key_position(encoding)
    memory = LayerMemory(
        (key_content, key_position), module.value(tokens), mask, (rows, columns), extent
    )
    result = module(content, position, memory, shared)

    if shared is not None:
        query_content = query_content + shared
        key_content = key_content + key_position
    query_point = module.query_point_sine(position.point_sine).expand(2, -1, -1)
    query_sides = module.query_sides_sine(position.sides_sine).expand(2, -1, -1)
    key_position = key_position.expand(2, -1, -1)
    query = torch.cat([heads_of(x, 3) for x in (query_content, query_point, query_sides)], dim=-1)
    key = torch.cat([heads_of(x, 3) for x in (key_content, key_position, key_position)], dim=-1)
    logits = query @ key.transpose(2, 3) * 12**-0.5
    if mask is not None:
        logits = logits.masked_fill(mask[:, None, None], -torch.inf)
    g = module.gaussian_head(content)
    gaussian = torch.zeros_like(logits)
    for b in range(2):
        p, s = position.points[b % len(position.points)], position.sides[b % len(position.sides)]
        for a in range(num_heads):
            for q in range(6):
                for axis, size in enumerate((columns, rows)):
                    o = torch.tanh(g[b, q, 2 * a + axis])
                    z = g[b, q, 2 * num_heads + 2 * a + axis]
                    side = s[q, 2 + axis] if o > 0 else s[q, axis]
                    centre = size * (p[q, axis] + o * side)
                    for cell in range(rows * columns):
                        c = (cell % columns, cell // columns)[axis] + 0.5
                        gaussian[b, a, q, cell] -= (z * (c - centre)).detach() ** 2 / 8
    read = (logits + gaussian).softmax(-1) @ heads_of(module.value(tokens), 3)
    expected = module.out_proj(read.transpose(1, 2).flatten(2))
    assert (result - expected).abs().max() < 1e-10


def test_reference_points_are_corners_of_the_cells_x_first():
    decoder = SapDetrDecoder(5, grid_size=(3, 4), embed_dim=32, num_heads=4, ffn_dim=48)
    points = decoder.reference_points.sigmoid()
    assert points.shape == (12, 2)
    edge = 0.001 / 1.001
    assert torch.allclose(points[6], torch.tensor([2 / 4, 1 / 3]))
    assert torch.allclose(points[0], torch.tensor([edge, edge]))
    assert torch.allclose(points[8], torch.tensor([edge, 2 / 3]))
    assert not decoder.reference_points.requires_grad
    assert {"reference_points", "reference_sides"} <= decoder.state_dict().keys()
    with pytest.raises(ValueError, match="0 x 4"):
        SapDetrDecoder(5, grid_size=(0, 4))


def test_inverse_sigmoid_clips_at_its_eps():
    x = torch.tensor([-1, 0, 1e-4, 0.3, 1, 2], dtype=torch.float64)
    edge = math.log(1e-3)
    small = math.log(1e-3 / (1 - 1e-4))
    expected = [edge, edge, small, math.log(3 / 7), -edge, -edge]
    assert inverse_sigmoid(x, 1e-3).tolist() == pytest.approx(expected)


def test_boxes_around_points():
    boxes = boxes_from_sides(torch.tensor([[0.5, 0.4]]), torch.tensor([[0.1, 0.2, 0.3, 0.0]]))
    assert boxes.tolist() == [pytest.approx([0.6, 0.3, 0.4, 0.2])]


@pytest.mark.parametrize("grid", [(3, 4), (5, 2), (1, 1)])
def test_points_move_in_their_own_cells(grid):
    model = make_model(grid_size=list(grid)).eval()
    rows, columns = grid
    for head in model.decoder.point_heads:
        head.layers[-1].bias.data = torch.tensor([12.0, -2.0])
    predictions = predict(model, make_inputs())
    assert predictions.boxes.shape == (3, 2, rows * columns, 4)
    # The corners of the first row and column are a thousandth inside of the image.
    offset = predictions.points.detach() - model.decoder.reference_points.sigmoid()
    x, y = (offset * torch.tensor([columns, rows])).unbind(-1)
    assert x.min() > 0.9
    assert x.max() <= 1
    assert y.min() > 0
    assert y.max() < 0.1


VARIANTS = [
    {},
    {"gaussian": False},
    {"gaussian_form": "folded"},
    {"content_from_memory": False},
    {"shared_box_heads": True},
    {"num_layers": 1},
    {"padding_invariant": True},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("num_objects", [(2, 1), (0, 0)])
def test_every_trained_parameter_gets_a_gradient(variant, num_objects):
    """Also in a batch without objects: what DistributedDataParallel asks for."""
    model = make_model(**variant).train()
    losses = model(make_inputs(num_objects=num_objects))
    total = sum(losses.values())
    assert torch.isfinite(total)
    assert len(losses) == 4 * len(model.decoder.layers)
    total.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.decoder.reference_points.grad is None


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_inference_computes_the_last_layer_only(variant):
    model = make_model(**variant).eval()
    inputs = make_inputs()
    calls = []
    for head in model.decoder.class_heads:
        head.register_forward_hook(lambda *_: calls.append("class"))
    last = predict(model, inputs, all_layers=False)
    assert calls == ["class"]
    assert len(last.boxes) == 1
    assert last.objectness is None
    assert largest_difference(last, predict(model, inputs).last_layer) < 1e-5
    detections = model(inputs)
    assert [len(x["instances"]) for x in detections] == [60, 60]


@pytest.mark.parametrize("shared, number", [(False, 3), (True, 1)])
def test_box_heads_are_per_layer_or_shared(shared, number):
    decoder = make_model(shared_box_heads=shared).decoder
    assert (len(decoder.point_heads), len(decoder.sides_heads)) == (number, number)


def test_first_layer_has_its_own_class_head():
    model = make_model().eval()
    inputs = make_inputs()
    before = predict(model, inputs).logits
    for head, layers in ((0, [True, False, False]), (1, [False, True, True])):
        changed = make_model().eval()
        changed.load_state_dict(model.state_dict())
        nn.init.constant_(changed.decoder.class_heads[head].layers[-1].bias, 7.0)
        after = predict(changed, inputs).logits
        assert [not torch.equal(a, b) for a, b in zip(before, after, strict=True)] == layers


def test_nothing_waits_for_the_device():
    """Tensors of the meta device have no values, so reading one on the host fails."""
    model = make_model().to("meta").eval()
    for sizes in (SIZES, [(64, 96), (64, 96)]):
        images = torch.zeros(2, 3, *map(max, zip(*sizes, strict=True)), device="meta")
        assert model.predict(images, sizes).boxes.shape == (3, 2, 12, 4)
        assert model.predict(images, sizes, all_layers=False).boxes.shape == (1, 2, 12, 4)


@pytest.mark.parametrize("content_from_memory", [True, False])
@pytest.mark.parametrize("sizes", [SIZES, [(64, 128), (96, 64)], [(33, 31), (95, 97)]])
def test_padding_changes_nothing_with_the_switch(content_from_memory, sizes):
    options = {"content_from_memory": content_from_memory}
    model = make_model(padding_invariant=True, **options).eval()
    inputs = make_inputs(sizes)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        model.to(dtype)
        together = predict(model, inputs)
        for i, single in enumerate(inputs):
            alone = predict(model, [single])
            for name in ("logits", "boxes", "points", "objectness"):
                padded = getattr(together, name)[:, i]
                assert (padded - getattr(alone, name)[:, 0]).abs().max() < tolerance, name


def test_padding_changes_predictions_as_published_without_the_switch():
    model = make_model().eval()
    inputs = make_inputs()
    together, alone = predict(model, inputs), predict(model, inputs[1:])
    assert (together.boxes[:, 1] - alone.boxes[:, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("padding_invariant", [False, True])
def test_a_mask_without_padding_is_the_same_as_none(padding_invariant):
    """Without padding the position keys are computed for one image and used for all."""
    model = make_model(padding_invariant=padding_invariant).double().eval()
    features = torch.randn(2, 32, 4, 5, dtype=torch.float64)
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    position = model.neck.position_encoding(mask, torch.float64)
    with_mask = model.decoder(model.encoder([FeatureMap(features, position, mask)]))
    without = model.decoder(model.encoder([FeatureMap(features, position[:1], None)]))
    assert largest_difference(with_mask, without) < 1e-12


@pytest.mark.parametrize("form", ["bias", "folded"])
def test_bfloat16_autocast_is_close(form):
    model = make_model(gaussian_form=form).eval()
    inputs = make_inputs()
    full = predict(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = predict(model, inputs)
    assert {x.dtype for x in vars(half).values() if torch.is_tensor(x)} == {torch.float32}
    assert (half.boxes - full.boxes).abs().max() < 2e-2
    assert (half.points - full.points).abs().max() < 2e-2


@pytest.mark.parametrize("padding_invariant, backend", [(False, "aot_eager"), (True, "eager")])
def test_compiled_model_predicts_the_same(padding_invariant, backend):
    model = make_model(padding_invariant, num_layers=2).eval()
    images = model.preprocess(make_inputs())
    arguments = (images.tensor, images.image_sizes)
    compiled = torch.compile(model.predict, backend=backend, fullgraph=True)
    with torch.no_grad():
        assert largest_difference(compiled(*arguments), model.predict(*arguments)) < 1e-5


@pytest.mark.parametrize(
    "depth, total, trained", [(50, 50_391_687, 50_168_675), (101, 69_331_591, 69_108_579)]
)
def test_number_of_parameters_is_the_published_one(depth, total, trained):
    cfg = model_zoo.get_config("common/models/sap_detr_r50.py").model
    cfg.num_classes = 91
    cfg.backbone.depth = depth
    with torch.device("meta"):
        parameters = list(instantiate(cfg).parameters())
    assert sum(p.numel() for p in parameters) == total
    assert sum(p.numel() for p in parameters if p.requires_grad) == trained


def test_initialisation():
    decoder = SapDetrDecoder(5, grid_size=(3, 4), num_layers=3)
    for heads in (decoder.point_heads, decoder.sides_heads):
        for head in heads:
            assert head.layers[-1].weight.eq(0).all()
            assert head.layers[-1].bias.eq(0).all()
            assert torch.equal(head.layers[0].weight, heads[0].layers[0].weight)
    first, second = decoder.class_heads
    assert torch.equal(first.layers[0].weight, second.layers[0].weight)
    for bias in (decoder.object_head.bias, first.layers[-1].bias, second.layers[-1].bias):
        assert torch.allclose(bias.sigmoid(), torch.tensor(0.01))
    for layer in decoder.layers:
        assert layer.self_attn.out_proj.bias.eq(0).all()
        assert layer.cross_attn.out_proj.bias.eq(0).all()
        assert torch.equal(layer.ffn.linear1.bias, decoder.layers[0].ffn.linear1.bias)
        limit = (6 / (256 + 32)) ** 0.5
        assert 0.9 < layer.cross_attn.gaussian_head.layers[-1].weight.abs().max() / limit <= 1
    assert not torch.equal(
        decoder.layers[0].ffn.linear1.weight, decoder.layers[1].ffn.linear1.weight
    )
    for conv in decoder.content_init.convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert conv.bias.eq(0).all()


def test_names_and_their_doubles_round_trip():
    case = golden_cases.load("sap_detr_r50_91")
    doubles = case["aliases"]
    published = {name: torch.zeros(()) for name in case["parameters"]}
    published.update({alias: published[name] for alias, name in doubles.items()})
    assert len(doubles) == 104
    ours = SAP_DETR.to_ours(published)
    cfg = model_zoo.get_config("common/models/sap_detr_r50.py").model
    cfg.num_classes = 91
    with torch.device("meta"):
        assert ours.keys() == instantiate(cfg).state_dict().keys()
    assert SAP_DETR.to_published(ours).keys() == published.keys()
    assert len(SAP_DETR.class_row_names(ours)) == 4


def test_grid_points_run_along_the_rows():
    assert grid_points(2, 2).tolist() == [[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]]


def test_unknown_gaussian_form_is_named():
    assert make_model(gaussian_form="folded").decoder.layers[0].cross_attn.gaussian_form == "folded"
    with pytest.raises(ValueError, match=r"'bias', 'folded'.*'gauss'"):
        SapDetrDecoder(5, gaussian_form="gauss")
