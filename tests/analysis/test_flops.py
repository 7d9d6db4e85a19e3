from __future__ import annotations

import pytest
import torch
from detectron2.utils.analysis import FlopCountAnalysis
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from sap_detr.analysis import FlopCount, build_without_weights, count_detector_flops, count_flops
from sap_detr.analysis.flops import FORMULAS, PER_MULTIPLY_ADD, mean_flops
from sap_detr.layers import MultiheadAttention

META, CPU = torch.device("meta"), torch.device("cpu")
NOTHING = nn.Identity()


def flops_of(run) -> float:
    count = count_flops(NOTHING, run)
    assert not count.uncounted
    assert count.total == sum(count.operators.values())
    return count.total


@pytest.mark.parametrize("device", [META, CPU])
def test_layers(device):
    with device:
        image = torch.zeros(2, 6, 9, 11)
        conv = nn.Conv2d(6, 8, (3, 5), stride=2, padding=1, groups=2)
        assert flops_of(lambda: conv(image)) == 2 * 5 * 5 * 8 * 3 * 3 * 5
        up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        assert flops_of(lambda: up(image)) == 2 * 9 * 11 * 6 * 4 * 2 * 2
        tokens = torch.zeros(2, 7, 6)
        for bias in (True, False):
            linear = nn.Linear(6, 5, bias=bias)
            assert flops_of(lambda linear=linear: linear(tokens)) == 2 * 7 * 6 * 5
        assert flops_of(lambda: nn.LayerNorm(6)(tokens)) == 5 * 2 * 7 * 6
        assert flops_of(lambda: nn.GroupNorm(3, 6)(image)) == 5 * image.numel()
        assert flops_of(lambda: nn.GroupNorm(3, 6, affine=False)(image)) == 4 * image.numel()
        grid = torch.zeros(2, 3, 4, 2)
        sampled = flops_of(lambda: F.grid_sample(image, grid, align_corners=False))
        assert sampled == 4 * 2 * 6 * 3 * 4


@pytest.mark.parametrize("device", [META, CPU])
def test_products(device):
    with device:
        a, b, c = torch.zeros(4, 3, 5), torch.zeros(4, 5, 2), torch.zeros(4, 3, 2)
        expected = 4 * 3 * 5 * 2
        assert flops_of(lambda: torch.bmm(a, b)) == expected
        assert flops_of(lambda: torch.baddbmm(c, a, b)) == expected
        assert flops_of(lambda: a @ b) == expected
        assert flops_of(lambda: torch.einsum("nij,njk->kni", a, b)) == expected
        # Broadcast: one factor without the batch dimension.
        assert flops_of(lambda: a[0] @ b) == expected
        assert flops_of(lambda: a @ b[0]) == expected
        assert flops_of(lambda: a[0] @ b[0, :, 0]) == 3 * 5
        assert flops_of(lambda: a[0, 0] @ b[0, :, 0]) == 5
        with torch.inference_mode():
            assert flops_of(lambda: F.linear(a, b[0].T)) == expected


@pytest.mark.parametrize("device", [META, CPU])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value_width", [8, 5])
def test_attention_is_counted_like_its_two_products(device, masked, value_width):
    batch, heads, queries, keys, width = 2, 3, 7, 11, 8
    with device:
        q = torch.zeros(batch, heads, queries, width)
        k = torch.zeros(batch, heads, keys, width)
        v = torch.zeros(batch, heads, keys, value_width)
        mask = torch.zeros(batch, 1, queries, keys) if masked else None

    def explicit():
        logits = q @ k.transpose(-2, -1) * width**-0.5
        return (logits if mask is None else logits + mask).softmax(-1) @ v

    expected = batch * heads * queries * keys * (width + value_width)
    assert flops_of(explicit) == expected
    attention = F.scaled_dot_product_attention
    assert flops_of(lambda: attention(q, k, v, attn_mask=mask)) == expected


def test_attention_kernel_runs_whole_on_cpu():
    """So that the rule for fused kernels is known to be what the test above checks."""
    q = torch.zeros(2, 3, 7, 8)
    count = count_flops(NOTHING, lambda: F.scaled_dot_product_attention(q, q, q))
    assert list(count.operators) == ["aten._scaled_dot_product_flash_attention_for_cpu"]


@pytest.mark.parametrize("operator", [op for op in FORMULAS if "scaled_dot_product" in str(op)])
def test_formulas_of_attention_kernels(operator):
    """Kernels of devices that are not here, by the shapes that all of them start with."""
    shapes = (2, 3, 7, 8), (2, 3, 11, 8), (2, 3, 11, 5)
    flops = FORMULAS[operator](*shapes, None, out_shape=None)
    assert flops / PER_MULTIPLY_ADD == 2 * 3 * 7 * 11 * (8 + 5)


@pytest.mark.parametrize("module", [MultiheadAttention, nn.MultiheadAttention])
def test_attention_module(module):
    size, keys = 16, 9
    with META:
        attention = module(size, 4)
        query, memory = torch.zeros(1, 5, size), torch.zeros(1, keys, size)
    if module is nn.MultiheadAttention:
        query, memory = query.transpose(0, 1), memory.transpose(0, 1)
    projections = (2 * 5 + 2 * keys) * size * size
    total = flops_of(lambda: attention(query, memory, memory))
    assert total == projections + 2 * 5 * keys * size


def test_free_by_convention():
    x = torch.rand(2, 4, 6, 6)
    norm = nn.BatchNorm2d(4).eval()
    mask = torch.zeros(2, 6, 6, dtype=torch.bool)

    def run():
        y = F.max_pool2d(F.relu(norm(x)), 2).softmax(-1)
        z = torch.cat((y.sin(), y.cumsum(1).sigmoid()), 1).flatten(2).transpose(1, 2)
        return z.sum(), z.amax(-1), x.masked_fill(mask[:, None], 0), torch.stack((y, y)).clone()

    assert flops_of(run) == 0


def test_unknown_operators_are_listed_by_name():
    x, boxes = torch.rand(1, 4, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4], [0, 1, 1, 5, 5]])

    def run():
        roi_align(x, boxes, 2)
        return torch.cdist(x @ x, x, p=1)

    count = count_flops(NOTHING, run)
    assert count.total == 4 * 8**3
    assert count.uncounted == {"torchvision.roi_align": 1, "aten._cdist_forward": 1}


def test_by_part():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.body(x)) @ torch.zeros(5, 7)

    model = Model()
    count = count_flops(model, lambda: model(torch.zeros(1, 2)))
    assert count.by_part() == {"body": 18, "head": 20, "": 35}
    assert count.by_part(2) == {"body.0": 6, "body.2": 12, "head": 20, "": 35}
    assert count.total == 73
    # The modules are left as they were.
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="depth must be at least 1"):
        count.by_part(0)


def test_mean():
    first = FlopCount({"a": 8, "b": 4}, {"mm": 12}, {"x": 1})
    second = FlopCount({"a": 4}, {"mm": 4}, {})
    assert mean_flops([first, second, second, second]) == FlopCount(
        {"a": 5, "b": 1}, {"mm": 6}, {"x": 0.25}
    )


def test_same_as_detectron2_where_both_count():
    """Detectron2's counter misses attention's products; what it does count must agree."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=2)
            self.group_norm = nn.GroupNorm(2, 8)
            self.norm = nn.LayerNorm(8)
            self.linear = nn.Linear(8, 16)

        def forward(self, x, grid):
            x = F.grid_sample(self.group_norm(self.conv(x)), grid, align_corners=False)
            x = self.linear(self.norm(x.flatten(2).transpose(1, 2)))
            return torch.einsum("bnc,bmc->bnm", x, x)

    model = Model()
    inputs = torch.rand(2, 3, 17, 13), torch.rand(2, 4, 5, 2)
    theirs = FlopCountAnalysis(model, inputs)
    ours = count_flops(model, lambda: model(*inputs))
    assert not ours.uncounted
    assert ours.total == theirs.total()
    assert ours.by_part()["conv"] == theirs.by_module()["model.conv"]


def detr_formula(height: int, width: int, stride: int, num_classes: int, all_layers: bool) -> int:
    """Transformer and heads of DETR: products of tokens, queries and weights."""
    d, ffn, queries = 256, 2048, 100
    tokens = -(-height // stride) * -(-width // stride)
    encoder = tokens * (4 * d**2 + 2 * d * ffn) + 2 * tokens**2 * d
    decoder = (
        2 * d**2 * tokens
        + queries * (6 * d**2 + 2 * d * ffn)
        + 2 * queries**2 * d
        + 2 * queries * tokens * d
    )
    heads = queries * (d * (num_classes + 1) + 2 * d**2 + 4 * d)
    return 6 * encoder + 6 * decoder + (6 if all_layers else 1) * heads + 2048 * d * tokens


@pytest.mark.parametrize("all_layers", [True, False])
def test_detr_agrees_with_formula(all_layers):
    model, _ = build_without_weights("common/models/detr_r50.py", 91)
    count = count_detector_flops(model, (200, 300), all_layers)
    assert not count.uncounted
    parts = count.by_part()
    transformer = parts["neck"] + parts["encoder"] + parts["decoder"]
    norms = count.operators["aten.native_layer_norm"]
    assert transformer - norms == detr_formula(200, 300, 32, 91, all_layers)
    assert norms < 0.01 * transformer


@pytest.mark.parametrize(
    "dc5, total, backbone",
    [(False, 81.26, 69.98), (True, 173.31, 106.02)],
)
def test_detr_published_figures(dc5, total, backbone):
    model, _ = build_without_weights(
        "common/models/detr_r50.py", overrides=[f"model.backbone.dc5={dc5}"]
    )
    model.train()
    count = count_detector_flops(model, (800, 1066))
    assert model.training
    assert count.total / 1e9 == pytest.approx(total, abs=0.005)
    assert count.by_part()["backbone"] / 1e9 == pytest.approx(backbone, abs=0.005)


def test_meta_and_cpu_agree():
    overrides = ["model.encoder.ffn_dim=64", "model.decoder.grid_size=[3,4]"]
    model, _ = build_without_weights("common/models/sap_detr_small.py", 7, overrides)
    on_meta = count_detector_flops(model, (64, 80))
    on_cpu = count_detector_flops(model.to_empty(device="cpu"), (64, 80))
    assert on_meta.modules == on_cpu.modules
    assert on_meta.uncounted == on_cpu.uncounted == {}
