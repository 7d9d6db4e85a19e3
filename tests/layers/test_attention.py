import pytest
import torch
from torch import nn

from sap_detr.layers import (
    AxisBias,
    MultiheadAttention,
    PositionedSelfAttention,
    attention,
)


def make_pair(dropout: float = 0.0) -> tuple[MultiheadAttention, nn.MultiheadAttention]:
    """Ours and PyTorch's with the same weights, in float64."""
    ours = MultiheadAttention(16, 4, dropout).double()
    theirs = nn.MultiheadAttention(16, 4, dropout=dropout, batch_first=True).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def padding(batch: int, tokens: int, padded: dict[int, list[int]]) -> torch.Tensor:
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    for image, cells in padded.items():
        mask[image, cells] = True
    return mask


def make_bias(batch: int, heads: int, queries: int, size: tuple[int, int]) -> AxisBias:
    return AxisBias(
        *(torch.randn(batch, heads, queries, n, dtype=torch.float64) for n in reversed(size))
    )


@pytest.mark.parametrize("mask", [None, padding(2, 7, {0: [5, 6], 1: [0, 3]})])
@pytest.mark.parametrize("shared", ["all different", "query is key", "all the same"])
def test_equals_pytorch_in_values_and_gradients(mask, shared):
    ours, theirs = make_pair()
    query, key, value = torch.randn(3, 2, 7, 16, dtype=torch.float64).unbind()
    gradients, results = [], []
    for module in (ours, theirs):
        q, k, v = (x.clone().requires_grad_() for x in (query, key, value))
        if shared != "all different":
            k = q
        if shared == "all the same":
            v = q
        result = module(q, k, v, key_padding_mask=mask)
        result = result if isinstance(result, torch.Tensor) else result[0]
        parameters = dict(module.named_parameters())
        inputs = list({id(x): x for x in (q, k, v)}.values())
        wanted = [parameters[name] for name in sorted(parameters)] + inputs
        weight = torch.arange(result.numel(), dtype=torch.float64).view_as(result).cos()
        gradients.append(torch.autograd.grad((result * weight).sum(), wanted))
        results.append(result)
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-11)


def test_parameters_are_initialised_as_published():
    ours = MultiheadAttention(16, 4)
    # One Xavier draw over the packed matrix, zero biases.
    bound = (6 / (16 + 48)) ** 0.5
    assert 0.9 * bound < ours.in_proj_weight.abs().max() <= bound
    assert not ours.in_proj_bias.any()
    assert not ours.out_proj.bias.any()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_the_written_out_softmax(with_bias, scale):
    query = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    key = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    value = torch.randn(2, 3, 6, 7, dtype=torch.float64)  # wider than the keys
    bias = make_bias(2, 3, 5, (2, 3)) if with_bias else None
    mask = padding(2, 6, {1: [4, 5]})

    result = attention(query, key, value, key_padding_mask=mask, bias=bias, scale=scale)

    assert result.shape == (2, 5, 21)
    for image in range(2):
        valid = [token for token in range(6) if not mask[image, token]]
        for head in range(3):
            for q in range(5):
                logits = torch.stack([query[image, head, q] @ key[image, head, t] for t in valid])
                logits = logits * (4**-0.5 if scale is None else scale)
                if bias is not None:
                    logits = logits + bias.full()[image, head, q, valid]
                weights = logits.exp() / logits.exp().sum()
                expected = sum(
                    w * value[image, head, t] for w, t in zip(weights, valid, strict=True)
                )
                found = result[image, q, 7 * head : 7 * head + 7]
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_masked_values_have_no_influence():
    module = make_pair()[0]
    query, memory = torch.randn(2, 3, 16).double(), torch.randn(2, 6, 16).double()
    mask = padding(2, 6, {0: [2], 1: [4, 5]})
    other = torch.where(mask[..., None], 1e3 * torch.randn(2, 6, 16).double(), memory)
    assert torch.equal(module(query, memory, memory, mask), module(query, other, other, mask))
    assert not torch.equal(module(query, memory, memory), module(query, other, other))


def test_dropout_is_of_training_only():
    module = make_pair(dropout=0.5)[0]
    without = make_pair(dropout=0.0)[0]
    without.load_state_dict(module.state_dict())
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    assert not torch.equal(module(x, x, x), module(x, x, x))
    module.eval()
    assert torch.equal(module(x, x, x), without(x, x, x))


def test_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match=r"embed_dim=10 .* num_heads=4"):
        MultiheadAttention(10, 4)


@pytest.mark.parametrize("mask", [None, padding(2, 7, {0: [5, 6], 1: [0, 3]})])
@pytest.mark.parametrize("with_bias", [False, True])
def test_shared_keys_are_the_same_for_every_head(mask, with_bias):
    query = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 1, 7, 6, dtype=torch.float64, requires_grad=True)
    value = torch.randn(2, 4, 7, 3, dtype=torch.float64, requires_grad=True)
    bias = make_bias(2, 4, 5, (1, 7)) if with_bias else None
    options = {"key_padding_mask": mask, "bias": bias, "scale": 0.3}
    results, gradients = [], []
    for keys in (key, key.repeat(1, 4, 1, 1)):
        result = attention(query, keys, value, **options)
        weight = torch.arange(result.numel(), dtype=torch.float64).view_as(result).cos()
        results.append(result)
        gradients.append(torch.autograd.grad((result * weight).sum(), (query, key, value)))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_shared_keys_with_dropout_keep_the_mean():
    query, key, value = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 5, 4), torch.randn(1, 2, 5, 4)
    whole = attention(query, key, value)
    several = torch.stack([attention(query, key, value, dropout=0.5) for _ in range(800)])
    assert not torch.equal(several[0], several[1])
    assert (several.mean(0) - whole).abs().max() < 0.2


def test_positioned_self_attention_is_the_written_out_one():
    module = PositionedSelfAttention(12, 3, dropout=0.0, num_positions=2).double()
    content = torch.randn(2, 5, 12, dtype=torch.float64)
    positions = [torch.randn(1, 5, 12, dtype=torch.float64) for _ in range(2)]
    query, key = module.query_content(content), module.key_content(content)
    for position, of_query, of_key in zip(
        positions, module.query_positions, module.key_positions, strict=True
    ):
        query, key = query + of_query(position), key + of_key(position)
    q, k, v = (x.view(2, 5, 3, 4).transpose(1, 2) for x in (query, key, module.value(content)))
    read = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
    expected = module.out_proj(read.transpose(1, 2).flatten(2))
    assert (module(content, *positions) - expected).abs().max() < 1e-10
    assert not module.out_proj.bias.any()
