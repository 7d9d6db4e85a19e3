import math

import pytest
import torch
from torch.nn import functional as F

from sap_detr.layers import DeformableAttention, deformable_attention
from sap_detr.layers.cpu import deformable_attention as cpu_form

FORMS = ["rows", "sampled"]
# Uneven, and with levels of a single row or column.
SIZES = [(4, 5), (1, 3), (3, 1)]
CELLS = sum(h * w for h, w in SIZES)
BATCH, QUERIES, HEADS, POINTS, WIDTH = 2, 6, 3, 2, 4


def make_inputs(sizes=SIZES, dtype=torch.float64):
    """Value, locations (half of them outside of the smaller levels) and weights."""
    cells = sum(h * w for h, w in sizes)
    samples = (BATCH, QUERIES, HEADS, len(sizes), POINTS)
    value = torch.randn(BATCH, cells, HEADS * WIDTH, dtype=dtype)
    locations = torch.randn(*samples, 2, dtype=dtype) * 3 + 1.5
    weights = torch.randn(samples, dtype=dtype)
    return [x.requires_grad_() for x in (value, locations, weights)]


def written_out(value, sizes, locations, weights):
    """The sums, sample by sample and cell by cell."""
    images = []
    for b in range(locations.shape[0]):
        queries = []
        for q in range(locations.shape[1]):
            heads = []
            for m, channels in enumerate(value[b].chunk(locations.shape[2], dim=-1)):
                total, first = torch.zeros_like(channels[0]), 0
                for level, (height, width) in enumerate(sizes):
                    cells = channels[first : first + height * width].unflatten(0, (height, width))
                    first += height * width
                    for p in range(locations.shape[4]):
                        x, y = locations[b, q, m, level, p] - 0.5
                        left, top = math.floor(x.item()), math.floor(y.item())
                        sample = torch.zeros_like(total)
                        for i in (top, top + 1):
                            for j in (left, left + 1):
                                if 0 <= i < height and 0 <= j < width:
                                    share = (1 - (y - i).abs()) * (1 - (x - j).abs())
                                    sample = sample + share * cells[i, j]
                        total = total + weights[b, q, m, level, p] * sample
                heads.append(total)
            queries.append(torch.cat(heads))
        images.append(torch.stack(queries))
    return torch.stack(images)


def assert_same_gradients(ours, theirs, inputs, tolerance=1e-10):
    weight = torch.randn_like(theirs)
    gradients = torch.autograd.grad((ours * weight).sum(), inputs)
    wanted = torch.autograd.grad((theirs * weight).sum(), inputs)
    for mine, other in zip(gradients, wanted, strict=True):
        assert (mine - other).abs().max() < tolerance


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_equal_the_sums_in_values_and_gradients(form):
    value, locations, weights = make_inputs()
    expected = written_out(value, SIZES, locations, weights)
    outside = (locations < -0.5) | (locations > 5.5)
    assert 0.1 < outside.double().mean() < 0.9
    result = deformable_attention(value, SIZES, locations, weights, form)
    assert (result - expected).abs().max() < 1e-10
    assert_same_gradients(result, expected, (value, locations, weights))


def test_rows_are_differentiated_as_finite_differences_are():
    value, locations, weights = make_inputs([(2, 3), (1, 2)])

    def attend(value, locations, weights):
        return deformable_attention(value, [(2, 3), (1, 2)], locations, weights, "rows")

    # No kink within the step.
    fraction = (locations - 0.5).detach() % 1
    assert ((fraction > 1e-5) & (fraction < 1 - 1e-5)).all()
    assert torch.autograd.gradcheck(attend, (value, locations, weights))


def test_both_forms_have_right_hand_derivatives_at_the_middle_of_cells():
    # Where points are at first. In powers of two nothing is rounded.
    sizes = [(4, 8), (2, 1)]
    value, _, weights = make_inputs(sizes)
    locations = torch.randint(-2, 10, (BATCH, QUERIES, HEADS, 2, POINTS, 2)).double() + 0.5
    locations.requires_grad_()
    rows, sampled = (deformable_attention(value, sizes, locations, weights, x) for x in FORMS)
    assert torch.autograd.grad(rows.sum(), locations, retain_graph=True)[0].any()
    assert_same_gradients(rows, sampled, (value, locations, weights))


def test_portions_of_queries_make_no_difference(monkeypatch):
    inputs = make_inputs()
    expected = deformable_attention(inputs[0], SIZES, *inputs[1:], "rows")
    per_query = 4 * BATCH * HEADS * len(SIZES) * POINTS
    sizes = []
    original = F.embedding_bag

    def counted(rows, *args, **options):
        sizes.append(len(rows))
        return original(rows, *args, **options)

    # Portions of 4 and 2 queries.
    monkeypatch.setattr(cpu_form, "PORTION", 4 * per_query + 1)
    monkeypatch.setattr(F, "embedding_bag", counted)
    result = deformable_attention(inputs[0], SIZES, *inputs[1:], "rows")
    assert sizes == [4 * BATCH * HEADS, 2 * BATCH * HEADS]
    assert torch.equal(result, expected)
    assert_same_gradients(result, expected, inputs, 1e-12)


@pytest.mark.parametrize("wanted", [[0], [1], [2], [0, 2], [1, 2]])
def test_gradients_of_some_inputs_are_those_of_all(wanted):
    inputs = make_inputs()
    expected = deformable_attention(inputs[0], SIZES, *inputs[1:], "rows")
    some = [x if i in wanted else x.detach() for i, x in enumerate(inputs)]
    result = deformable_attention(some[0], SIZES, *some[1:], "rows")
    assert_same_gradients(result, expected, [inputs[i] for i in wanted], 1e-12)


def test_what_is_not_a_number_stays_so_and_harms_no_other():
    value, locations, weights = (x.detach() for x in make_inputs())
    expected = deformable_attention(value, SIZES, locations, weights, "rows")
    locations[1, 2, 0, 1, 0, 0] = torch.nan
    result = deformable_attention(value, SIZES, locations, weights, "rows")
    assert result[1, 2, :WIDTH].isnan().all()
    result[1, 2, :WIDTH] = expected[1, 2, :WIDTH]
    assert torch.equal(result, expected)


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_raised(form):
    value, locations, weights = make_inputs(dtype=torch.float32)
    halves = (value.bfloat16(), weights.bfloat16())
    result = deformable_attention(halves[0], SIZES, locations, halves[1], form)
    expected = written_out(halves[0].float(), SIZES, locations, halves[1].float())
    assert result.dtype == torch.float32
    assert (result - expected).abs().max() < 1e-5


def test_a_second_derivative_is_refused():
    value, locations, weights = make_inputs()
    result = deformable_attention(value, SIZES, locations, weights, "rows")
    (gradient,) = torch.autograd.grad(result.square().sum(), locations, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_meta_device_stands_for_the_cpu():
    value, locations, weights = (x.detach().to("meta") for x in make_inputs())
    result = deformable_attention(value, SIZES, locations, weights)
    assert result.shape == (BATCH, QUERIES, HEADS * WIDTH)


def make_module(dtype=torch.float64) -> DeformableAttention:
    """With weights that depend on the query, and biases that are seen where they don't belong."""
    module = DeformableAttention(HEADS * WIDTH, HEADS, len(SIZES), POINTS).to(dtype)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def make_tokens(dtype=torch.float64):
    query = torch.randn(BATCH, QUERIES, HEADS * WIDTH, dtype=dtype)
    value = torch.randn(BATCH, CELLS, HEADS * WIDTH, dtype=dtype)
    reference_points = torch.rand(1, QUERIES, len(SIZES), 2, dtype=dtype) * 4
    return query, reference_points, value


@pytest.mark.parametrize("padded", [False, True])
def test_the_module_is_the_written_out_one(padded):
    module = make_module()
    query, reference_points, value = make_tokens()
    samples = (HEADS, len(SIZES), POINTS)
    projected = module.value_proj(value)
    mask = None
    if padded:
        mask = torch.zeros(BATCH, CELLS, dtype=torch.bool)
        mask[1, 7:20] = mask[1, -1] = True
        projected = torch.where(mask[..., None], 0.0, projected)
    offsets = module.sampling_offsets(query).view(BATCH, QUERIES, *samples, 2)
    locations = offsets + reference_points.view(1, QUERIES, 1, len(SIZES), 1, 2)
    weights = module.attention_weights(query).view(BATCH, QUERIES, HEADS, -1).softmax(-1)
    summed = written_out(projected, SIZES, locations, weights.view(BATCH, QUERIES, *samples))
    expected = module.output_proj(summed)
    result = module(query, reference_points, value, SIZES, mask)
    assert (result - expected).abs().max() < 1e-10
    assert_same_gradients(result, expected, list(module.parameters()))


def test_weights_are_those_of_a_softmax_however_large_the_logits():
    module = make_module()
    query, reference_points, value = make_tokens()
    with torch.no_grad():
        module.attention_weights.bias += 2000
    result = module(query, reference_points, value, SIZES)
    with torch.no_grad():
        module.attention_weights.bias -= 2000
    assert (result - module(query, reference_points, value, SIZES)).abs().max() < 1e-9


def test_initialised_as_published():
    module = DeformableAttention(64, 8, 3, 4)
    assert not module.sampling_offsets.weight.any()
    assert not module.attention_weights.weight.any()
    for name in ("attention_weights", "value_proj", "output_proj"):
        assert not getattr(module, name).bias.any()
    bound = (6 / 128) ** 0.5
    for name in ("value_proj", "output_proj"):
        assert 0.9 * bound < getattr(module, name).weight.abs().max() <= bound
    # Head, level, point, (x, y).
    offsets = module.sampling_offsets.bias.view(8, 3, 4, 2)
    corners = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, corner in enumerate(corners):
        for point in range(4):
            expected = torch.tensor(corner) * (point + 1.0)
            torch.testing.assert_close(
                offsets[head, :, point], expected.expand(3, -1), rtol=0, atol=1e-5
            )


def test_parameter_names_are_the_published_ones():
    shapes = {k: tuple(x.shape) for k, x in DeformableAttention(256, 8, 3, 4).state_dict().items()}
    assert shapes == {
        "sampling_offsets.weight": (192, 256),
        "sampling_offsets.bias": (192,),
        "attention_weights.weight": (96, 256),
        "attention_weights.bias": (96,),
        "value_proj.weight": (256, 256),
        "value_proj.bias": (256,),
        "output_proj.weight": (256, 256),
        "output_proj.bias": (256,),
    }


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"embed_dim=10 .* num_heads=3"):
        DeformableAttention(10, 3, 2, 2)


def test_autocast_is_near_full_precision():
    module = make_module(torch.float32)
    tokens = make_tokens(torch.float32)
    expected = module(*tokens, SIZES)
    with torch.autocast("cpu", torch.bfloat16):
        result = module(*tokens, SIZES)
    assert result.dtype == torch.bfloat16
    assert (result - expected).abs().max() < 0.05 * expected.abs().max()


def test_locations_are_not_rounded_by_autocast():
    # In half precision columns 1000 to 1004 would be the same.
    module = make_module(torch.float32)
    query, _, _ = make_tokens(torch.float32)
    sizes = [(1, 1100), (1, 1), (1, 1)]
    value = torch.randn(BATCH, 1102, HEADS * WIDTH)
    reference_points = torch.rand(1, QUERIES, 3, 2) * 5 + 1000
    reference_points[..., 1] = 0.5
    expected = module(query, reference_points, value, sizes)
    with torch.autocast("cpu", torch.bfloat16):
        result = module(query, reference_points, value, sizes)
    assert (result - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_as_one_graph_it_is_the_same(backend):
    module = make_module()
    tokens = make_tokens()
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    results = [f(*tokens, SIZES) for f in (compiled, module)]
    assert (results[0] - results[1]).abs().max() < 1e-10
    assert_same_gradients(*results, list(module.parameters()))
