import torch
from torch import nn

from sap_detr.layers import masked_group_norm


def test_padding_counts_for_nothing():
    norm = nn.GroupNorm(4, 8).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[0, 3:] = True
    mask[0, :, 4:] = True
    result = masked_group_norm(x, norm, mask)
    assert (result[:1, :, :3, :4] - norm(x[:1, :, :3, :4])).abs().max() < 1e-12
    assert (result[1:] - norm(x[1:])).abs().max() < 1e-12
    assert result.masked_select(mask[:, None].expand_as(x)).eq(0).all()


def test_statistics_are_in_full_precision():
    norm = nn.GroupNorm(1, 4)
    x = torch.randn(1, 4, 8, 8) + 100
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    result = masked_group_norm(x.bfloat16(), norm, mask)
    assert result.dtype == torch.bfloat16
    assert (result - norm(x.bfloat16().float())).abs().max() < 0.02
