from torch import nn

from sap_detr.engine import get_parameter_groups


def test_backbone_has_its_own_rate_and_frozen_parameters_none():
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "decoder": nn.Linear(3, 4)})
    model["backbone"].bias.requires_grad_(False)
    others, backbone = get_parameter_groups(model, base_lr=1e-4, backbone_factor=0.1)
    assert others["lr"] == 1e-4
    assert backbone["lr"] == 1e-5
    assert {id(p) for p in others["params"]} == {id(p) for p in model["decoder"].parameters()}
    assert [id(p) for p in backbone["params"]] == [id(model["backbone"].weight)]


def test_no_empty_group():
    assert len(get_parameter_groups(nn.Linear(1, 1), base_lr=1.0)) == 1
