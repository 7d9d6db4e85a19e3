import pytest
import torch

from sap_detr.layers import Dropout, dropout, relu_dropout

# Neither a multiple of the four numbers that are drawn at once nor of 1 / 65536.
SHAPE, P = (37, 271, 3), 0.3


def kept_bytes(function, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The result, and how much memory is kept for the gradient besides it."""
    storages = {}

    def pack(kept):
        storages[kept.untyped_storage().data_ptr()] = kept.untyped_storage().nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        result = function(x)
    storages.pop(result.untyped_storage().data_ptr(), None)
    return result, sum(storages.values())


@pytest.mark.parametrize("function", [dropout, relu_dropout])
def test_elements_are_dropped_independently_and_the_mean_stays(function):
    x = torch.ones(400, 1003, dtype=torch.float64)
    result = function(x, P)
    dropped = result == 0
    assert abs(dropped.double().mean() - P) < 0.004
    assert abs(result.mean() - 1) < 0.006
    assert result[~dropped].unique().numel() == 1
    # Neighbours, of which four are drawn at once, have nothing to do with each other.
    flat = dropped.flatten().double() - P
    for distance in (1, 2, 3, 4, 1003):
        correlation = (flat[distance:] * flat[:-distance]).mean() / (P * (1 - P))
        assert abs(correlation) < 0.01


@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients_are_scaled_or_zero(transposed):
    x = torch.randn(SHAPE, dtype=torch.float64)
    x = (x.transpose(0, 1) if transposed else x).requires_grad_()
    result = dropout(x, P)
    kept = (result != 0).double()
    scale = (result / x)[result != 0].mean().item()
    assert scale == pytest.approx(1 / (1 - P), abs=1e-4)
    torch.testing.assert_close(result, x * kept * scale, rtol=1e-12, atol=0)
    weight = torch.randn_like(result)
    (gradient,) = torch.autograd.grad((result * weight).sum(), x)
    torch.testing.assert_close(gradient, weight * kept * scale, rtol=1e-12, atol=0)


def test_behind_a_relu_it_is_dropout_of_relu():
    x = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(5)
    result = relu_dropout(x, P)
    torch.manual_seed(5)
    expected = dropout(torch.relu(x), P)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)
    weight = torch.randn_like(result)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (result, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)


def test_a_byte_per_element_is_kept_and_nothing_behind_a_relu():
    x = torch.randn(SHAPE, requires_grad=True)
    assert kept_bytes(lambda x: dropout(x, P), x)[1] == x.numel()
    assert kept_bytes(lambda x: relu_dropout(x, P), x)[1] == 0


@pytest.mark.parametrize("function", [dropout, relu_dropout])
def test_seeds_repeat_it(function):
    x = torch.rand(SHAPE) + 1
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(function(x, P))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("function", [dropout, relu_dropout])
def test_extreme_probabilities(function):
    x = torch.rand(SHAPE)
    assert torch.equal(function(x, 0.0), x)
    assert not function(x, 1.0).any()
    # So rarely that 1 / 65536 is too much.
    assert (function(x, 1e-7) - x).abs().max() < 1e-5


def test_the_module_drops_in_training_only():
    module, x = Dropout(P), torch.rand(SHAPE)
    assert (module(x) == 0).any()
    assert module.eval()(x) is x


def test_compiled_it_still_drops():
    x = torch.ones(100, 100)
    compiled = torch.compile(lambda x: dropout(x, P), backend="aot_eager", fullgraph=True)
    assert abs((compiled(x) == 0).double().mean() - P) < 0.03
