import pytest
import torch

from sap_detr.layers import AxisBias, attention, gaussian_attention

SIZE = (5, 7)


def make_inputs(dtype=torch.float64):
    query = torch.randn(2, 3, 11, 8, dtype=dtype)
    key = torch.randn(2, 3, 35, 8, dtype=dtype)
    value = torch.randn(2, 3, 35, 4, dtype=dtype)
    centre = torch.randn(2, 3, 11, 2, dtype=dtype) * 4 + 3
    sharpness = torch.randn(2, 3, 11, 2, dtype=dtype)
    return [x.requires_grad_() for x in (query, key, value, centre, sharpness)]


def written_out(query, key, value, centre, sharpness, scale, padding_mask=None):
    """The formula as it stands, with a tensor of queries x cells x 2."""
    height, width = SIZE
    cells = torch.tensor(
        [(j + 0.5, i + 0.5) for i in range(height) for j in range(width)], dtype=query.dtype
    )
    distance = cells - centre[..., None, :]
    gaussian = -(sharpness[..., None, :] * distance).square().sum(-1) / 8
    logits = query @ key.transpose(-1, -2) * scale
    if padding_mask is not None:
        logits = logits.masked_fill(padding_mask[:, None, None], -torch.inf)
    return ((logits + gaussian).softmax(-1) @ value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("form", ["bias", "folded"])
@pytest.mark.parametrize("padded", [False, True])
def test_both_forms_equal_the_formula_in_values_and_gradients(form, padded):
    mask = torch.zeros(2, 35, dtype=torch.bool)
    mask[1, 20:] = True
    mask = mask if padded else None
    inputs = make_inputs()
    expected = written_out(*inputs, scale=12**-0.5, padding_mask=mask)
    result = gaussian_attention(*inputs, SIZE, form=form, key_padding_mask=mask, scale=12**-0.5)
    assert (result - expected).abs().max() < 1e-10
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((result * weight).sum(), inputs)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("form", ["bias", "folded"])
def test_a_centre_far_outside_stays_precise_in_half_precision(form):
    query, key, value, centre, sharpness = (x.detach() for x in make_inputs(torch.float32))
    centre = centre + 40
    expected = written_out(query, key, value, centre, sharpness, 8**-0.5)
    half = (x.bfloat16() for x in (query, key, value))
    with torch.autocast("cpu", torch.bfloat16):
        result = gaussian_attention(*half, centre, sharpness, SIZE, form=form)
    assert (result - expected).abs().max() < 0.05


def test_folded_form_is_not_rounded_by_autocast():
    inputs = [x.detach() for x in make_inputs(torch.float32)]
    expected = written_out(*inputs, 8**-0.5)
    with torch.autocast("cpu", torch.bfloat16):
        result = gaussian_attention(*inputs, SIZE, form="folded")
    assert result.dtype == torch.float32
    assert (result - expected).abs().max() < 1e-5


def test_bias_and_padding_mask_of_attention_add_up():
    query, key, value, _, _ = make_inputs()
    x_term, y_term = (torch.randn(2, 3, 11, n, dtype=query.dtype) for n in (7, 5))
    bias = AxisBias(x_term, y_term)
    mask = torch.zeros(2, 35, dtype=torch.bool)
    mask[0, 30:] = True
    result = attention(query, key, value, key_padding_mask=mask, bias=bias)
    logits = query @ key.transpose(-1, -2) * 8**-0.5 + bias.full()
    logits = logits.masked_fill(mask[:, None, None], -torch.inf)
    expected = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
    assert (result - expected).abs().max() < 1e-12
