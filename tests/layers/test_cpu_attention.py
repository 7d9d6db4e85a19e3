from __future__ import annotations

import pytest
import torch

from sap_detr.layers import AxisBias
from sap_detr.layers.cpu import attention
from sap_detr.layers.cpu.attention import portioned_attention
from sap_detr.layers.cpu.dropout import draw_dropped

B, M, Q, N, E, V, SIZE = 2, 3, 5, 12, 4, 6, (3, 4)
P = 0.25
# One query at a time, two (so that one is left over), and all at once.
PORTIONS = {"one": M * N, "two": 2 * M * N, "all": Q * M * N}


@pytest.fixture(params=PORTIONS)
def portion(request, monkeypatch) -> str:
    monkeypatch.setattr(attention, "PORTION", PORTIONS[request.param])
    return request.param


@pytest.fixture
def masks(monkeypatch) -> list[torch.Tensor]:
    """What dropout drew, in the order in which it was drawn."""
    drawn: list[torch.Tensor] = []

    def draw(shape, p, device):
        drawn.append(draw_dropped(shape, p, device))
        return drawn[-1]

    monkeypatch.setattr(attention, "draw_dropped", draw)
    return drawn


def make_inputs(shared: bool) -> list[torch.Tensor]:
    shapes = [(Q, E), (N, E), (N, V), (Q, SIZE[1]), (Q, SIZE[0])]
    heads = [M, 1 if shared else M, M, M, M]
    return [
        torch.randn(B, m, *shape, dtype=torch.float64, requires_grad=True)
        for m, shape in zip(heads, shapes, strict=True)
    ]


def written_out(query, key, value, x_term, y_term, padding, kept):
    logits = query @ key.transpose(2, 3)
    if x_term is not None:
        logits = logits + (y_term[..., :, None] + x_term[..., None, :]).flatten(-2)
    if padding is not None:
        logits = logits.masked_fill(padding[:, None, None], -torch.inf)
    weights = logits.softmax(-1)
    return (weights if kept is None else weights * kept / (1 - P)) @ value


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_is_the_written_out_softmax(portion, masks, shared, with_bias, padded, dropped):
    query, key, value, x_term, y_term = make_inputs(shared)
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[1, 7:] = True
    padding = padding if padded else None
    bias = AxisBias(x_term, y_term) if with_bias else None
    inputs = [query, key, value, *([x_term, y_term] if with_bias else [])]

    result = portioned_attention(query, key, value, padding, bias, P if dropped else 0.0)

    kept = None
    if dropped:
        per_image = len(masks) // B
        assert per_image == {"one": 5, "two": 3, "all": 1}[portion]
        kept = ~torch.stack(
            [torch.cat(masks[i * per_image : (i + 1) * per_image], dim=1) for i in range(B)]
        )
        assert 0 < kept.double().mean() < 1
    terms = (x_term, y_term) if with_bias else (None, None)
    expected = written_out(query, key, value, *terms, padding, kept)
    assert (result - expected).abs().max() < 1e-12
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((result * weight).sum(), inputs)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-12


def test_keeps_no_weights_for_the_gradient(portion):
    query, key, value, x_term, y_term = make_inputs(shared=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        portioned_attention(query, key, value, None, AxisBias(x_term, y_term))
    weights = [x for x in saved if x is not None and x.shape[-1] == N]
    # Those of an image whose queries are one portion are small.
    assert len(weights) == (B if portion == "all" else 0)


def test_gradient_can_be_taken_twice(portion):
    query, key, value, _, _ = make_inputs(shared=True)
    total = portioned_attention(query, key, value, dropout=P).square().sum()
    first = torch.autograd.grad(total, (query, key, value), retain_graph=True)
    second = torch.autograd.grad(total, (query, key, value))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("needed", range(5))
def test_gradient_of_one_input_only(portion, needed):
    inputs = make_inputs(shared=True)
    for index, x in enumerate(inputs):
        x.requires_grad_(index == needed)
    query, key, value, *terms = inputs
    result = portioned_attention(query, key, value, None, AxisBias(*terms)).square().sum()
    expected = written_out(*inputs, None, None).square().sum()
    found, wanted = (torch.autograd.grad(x, inputs[needed])[0] for x in (result, expected))
    assert (found - wanted).abs().max() < 1e-11


@pytest.mark.parametrize("single", range(4))
def test_batch_of_one_stands_for_all(portion, single):
    query, key, value, x_term, y_term = (x.detach() for x in make_inputs(shared=True))
    padding = torch.zeros(B, N, dtype=torch.bool)
    inputs = [query, key, value, padding, AxisBias(x_term, y_term)]
    if single == 3:
        inputs[3:] = [padding[:1], AxisBias(x_term[:1], y_term[:1])]
        x_term, y_term = (x[:1].expand(B, -1, -1, -1) for x in (x_term, y_term))
    else:
        inputs[single] = inputs[single][:1]
    query, key, value = (x.expand(B, -1, -1, -1) for x in inputs[:3])
    expected = written_out(query, key, value, x_term, y_term, padding, None)
    assert (portioned_attention(*inputs) - expected).abs().max() < 1e-12


def test_backward_pass_under_autocast(portion):
    inputs = [x.float().detach().requires_grad_() for x in make_inputs(shared=True)[:3]]
    total = portioned_attention(*inputs).square().sum()
    expected = torch.autograd.grad(total, inputs, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(total, inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_keys():
    empty = torch.zeros(1, 2, 0, 4)
    assert not portioned_attention(torch.ones(1, 2, 3, 4), empty, empty).any()


def test_axis_bias():
    x, y = torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 3)
    full = AxisBias(x, y).full()
    assert full.shape == (1, 1, 1, 12)
    assert full[0, 0, 0, 4 * 2 + 1] == y[0, 0, 0, 2] + x[0, 0, 0, 1]
    assert AxisBias(x, y).to(torch.bfloat16).full().dtype == torch.bfloat16
