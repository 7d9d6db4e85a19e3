import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torchvision.models import resnet50, resnet101

from sap_detr.checkpoint import NAME_MAPS
from sap_detr.modeling import build_resnet, build_small_resnet

WEIGHTS = NAME_MAPS["torchvision_resnet"]


def random_torchvision_resnet(build=resnet50, **options) -> nn.Module:
    model = build(weights=None, **options).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def final_features(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """torchvision's features by Detectron2's names."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    features = {}
    for index in range(1, 5):
        x = getattr(model, f"layer{index}")(x)
        features[f"res{index + 1}"] = x
    return features


@pytest.mark.parametrize("dc5", [False, True])
def test_equals_torchvision(dc5):
    reference = random_torchvision_resnet(replace_stride_with_dilation=[False, False, dc5])
    stages = ["res2", "res3", "res4", "res5"]
    ours = build_resnet(50, dc5=dc5, out_features=stages).double()
    state = WEIGHTS.to_ours(reference.state_dict())
    ours.load_state_dict({name.removeprefix("backbone."): x for name, x in state.items()})
    images = torch.randn(1, 3, 70, 97, dtype=torch.float64)
    with torch.no_grad():
        expected, found = final_features(reference, images), ours(images)
    assert found.keys() == expected.keys()
    for stage, x in found.items():
        scale = expected[stage].abs().max()
        assert scale > 0.1
        torch.testing.assert_close(x / scale, expected[stage] / scale, rtol=0, atol=1e-12)
    assert found["res5"].shape[-2:] == ((5, 7) if dc5 else (3, 4))


def test_resnet101_has_the_parameters_of_torchvision():
    with torch.device("meta"):
        ours, theirs = build_resnet(101), resnet101()
    expected = WEIGHTS.to_ours(theirs.state_dict())
    found = {f"backbone.{name}": x for name, x in ours.state_dict().items()}
    assert {name: x.shape for name, x in found.items()} == {
        name: x.shape for name, x in expected.items()
    }


@pytest.mark.parametrize("freeze_at, frozen", [(0, set()), (1, {"stem"}), (2, {"stem", "res2"})])
def test_stages_below_freeze_at_are_not_trained(freeze_at, frozen):
    with torch.device("meta"):
        model = build_resnet(50, freeze_at=freeze_at)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in frozen), name


def test_published_norms_are_frozen_vectors():
    with torch.device("meta"):
        model = build_resnet(50)
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in model.modules()) == 53
    assert not any("norm" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("dc5, stride", [(False, 32), (True, 16)])
def test_stride(dc5, stride):
    with torch.device("meta"):
        shape = build_resnet(50, dc5=dc5).output_shape()
    assert shape.keys() == {"res5"}
    assert (shape["res5"].stride, shape["res5"].channels) == (stride, 2048)


def test_unknown_depth_is_an_error():
    with pytest.raises(ValueError, match=r"one of \[50, 101\], got 34"):
        build_resnet(34)


def test_small_resnet():
    model = build_small_resnet(4, [1, 2, 1], ["res2", "res4"])
    features = model(torch.randn(2, 3, 50, 64))
    assert {name: tuple(x.shape) for name, x in features.items()} == {
        "res2": (2, 4, 13, 16),
        "res4": (2, 16, 4, 4),
    }
    shape = model.output_shape()["res4"]
    assert (shape.channels, shape.stride) == (16, 16)
    assert [len(stage) for stage in (model.res2, model.res3, model.res4)] == [1, 2, 1]
    assert all(parameter.requires_grad for parameter in model.parameters())
