import pytest
import torch

from sap_detr.layers import full_precision, full_precision_dtype

PRECISE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


@pytest.mark.parametrize("dtype, expected", PRECISE.items())
def test_only_half_precision_is_raised(dtype, expected):
    x = torch.randn(3).to(dtype)
    assert full_precision(x).dtype == full_precision_dtype(dtype) == expected
    assert torch.equal(full_precision(x), x.to(expected))
    if dtype == expected:
        assert full_precision(x) is x
