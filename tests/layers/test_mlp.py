import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sap_detr.layers import (
    MLP,
    FeedForward,
    Linear,
    linear,
    linear_side_by_side,
    xavier_init_matrices,
)


def test_mlp_has_relu_between_its_layers_only():
    mlp = MLP(3, 5, 2, num_layers=3)
    x = torch.randn(4, 3)
    a, b, c = mlp.layers
    torch.testing.assert_close(mlp(x), c(torch.relu(b(torch.relu(a(x))))))
    assert (mlp(torch.randn(200, 3)) < 0).any()
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(5, 3), (5, 5), (2, 5)]


def test_mlp_of_one_layer_is_linear():
    mlp = MLP(3, 5, 2, num_layers=1)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(2, 3)]


def test_mlp_needs_a_layer():
    with pytest.raises(ValueError, match="num_layers=0"):
        MLP(3, 5, 2, num_layers=0)


def test_feed_forward_drops_hidden_units_in_training_only():
    ffn = FeedForward(4, 64, dropout=0.5)
    x = torch.randn(3, 4)
    assert not torch.equal(ffn(x), ffn(x))
    ffn.eval()
    expected = ffn.linear2(torch.relu(ffn.linear1(x)))
    torch.testing.assert_close(ffn(x), expected)


@pytest.fixture
def convolutions(monkeypatch):
    """Collects the number of columns of every convolution that runs."""
    columns = []
    original = F.conv2d

    def counted(x, *args, **options):
        columns.append(x.shape[-1])
        return original(x, *args, **options)

    monkeypatch.setattr(F, "conv2d", counted)
    return columns


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(600, 256), (2, 300, 256), (2, 40, 15, 256)])
def test_many_rows_are_a_convolution_of_the_same_values_and_gradients(shape, threads, convolutions):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, weight, bias = torch.randn(shape), torch.randn(200, 256), torch.randn(200)
        inputs = [y.requires_grad_() for y in (x, weight, bias)]
        result, expected = linear(*inputs), F.linear(*inputs)
        assert convolutions == [x.numel() // 256]
        assert result.shape == expected.shape
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-3)
        factor = torch.randn_like(expected)
        gradients = torch.autograd.grad((result * factor).sum(), inputs)
        wanted = torch.autograd.grad((expected * factor).sum(), inputs)
        for ours, theirs in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    finally:
        torch.set_num_threads(before)


def test_few_rows_and_other_dtypes_are_left_to_pytorch(convolutions):
    layer = Linear(256, 400)
    many = torch.randn(2, 200, 256)
    for few in (many[0], many[..., :2]):
        weight = layer.weight[:, : few.shape[-1]]
        assert torch.equal(linear(few, weight, layer.bias), F.linear(few, weight, layer.bias))
    layer.double()(many.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(many).dtype == torch.bfloat16
    assert layer.to("meta")(many.to("meta")).shape == (2, 200, 400)
    assert not convolutions


def test_linear_side_by_side_equals_each_layer_alone():
    layers = [nn.Linear(4, n).double() for n in (2, 3, 5)]
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    for found, layer in zip(linear_side_by_side(x, layers), layers, strict=True):
        torch.testing.assert_close(found, layer(x), rtol=0, atol=1e-14)


def test_xavier_init_draws_matrices_and_leaves_vectors():
    module = nn.Sequential(nn.Linear(300, 100), nn.LayerNorm(100))
    bias = module[0].bias.clone()
    nn.init.constant_(module[1].weight, 7.0)
    xavier_init_matrices(module)
    bound = (6 / 400) ** 0.5
    assert 0.99 * bound < module[0].weight.abs().max() <= bound
    assert torch.equal(module[0].bias, bias)
    assert (module[1].weight == 7).all()


def test_feed_forward_takes_portions_of_many_tokens(monkeypatch):
    ffn = FeedForward(4, 8).double().eval()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    expected = ffn(x)
    taken = []
    ffn.linear1.register_forward_hook(lambda module, args, result: taken.append(args[0].shape[1]))
    monkeypatch.setattr("sap_detr.layers.cpu.linear.MANY_TOKENS", 3)
    with torch.no_grad():
        assert torch.equal(ffn(x), expected)
    assert taken == [3, 3, 1]
