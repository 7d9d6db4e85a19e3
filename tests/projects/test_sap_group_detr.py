"""SAP-Group-DETR: what its design promises, exactly."""

from __future__ import annotations

import copy

import pytest
import tiny_models
import torch
from detectron2.config import instantiate
from tiny_models import predict, tensors
from torch import nn

from sap_detr import model_zoo
from sap_detr.checkpoint import NAME_MAPS, CheckpointError, load_weights
from sap_detr.modeling import SapDetrDecoder, Targets, build_small_resnet
from sap_detr.modeling.criterion import object_normalizer
from sap_detr.modeling.decoders.sap_detr import group_shifts

GROUPS = 3


def make_model(num_groups: int, seed: int = 0, **options) -> nn.Module:
    """In float64, with weights away from their initial values; a batch norm has its own."""
    cfg = model_zoo.get_config("common/models/sap_detr_r50.py").model
    cfg.num_classes = 5
    cfg.backbone = {
        "_target_": build_small_resnet,
        "width": 8,
        "blocks_per_stage": [1, 1, 1],
        "out_features": ["res4"],
        "norm": "FrozenBN",
    }
    cfg.neck.in_features, cfg.neck.in_channels, cfg.neck.embed_dim = ["res4"], [32], 32
    cfg.encoder.num_layers, cfg.encoder.ffn_dim = 1, 48
    cfg.decoder.update(
        {"grid_size": [3, 4], "num_layers": 3, "ffn_dim": 48, "num_groups": num_groups, **options}
    )
    torch.manual_seed(seed)
    model = instantiate(cfg).double()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "group_" not in name:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += 0.1 * noise
    return model.train()


def make_batch(num_objects=(2, 0, 4)) -> list[dict]:
    return tiny_models.make_batch(num_objects, [(64, 96), (48, 80), (96, 64)])


def group_of(model: nn.Module, group: int) -> nn.Module:
    """SAP-DETR with the queries of one group."""
    single = make_model(1)
    state = {n: x for n, x in model.state_dict().items() if "group_" not in n}
    if group > 0:
        rows = slice((group - 1) * 12, group * 12)
        state["decoder.reference_points"] = model.decoder.group_points[rows].detach()
        state["decoder.reference_sides"] = model.decoder.group_sides[rows].detach()
    single.load_state_dict(state)
    return single


def train_step(model: nn.Module, batch: list[dict]) -> tuple[dict, dict]:
    model.zero_grad()
    losses = model(batch)
    sum(losses.values()).backward()
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_one_group_is_sap_detr_to_the_last_bit():
    torch.manual_seed(0)
    plain = SapDetrDecoder(5, grid_size=(3, 4), embed_dim=32, num_heads=4, ffn_dim=48)
    torch.manual_seed(0)
    grouped = SapDetrDecoder(
        5, grid_size=(3, 4), embed_dim=32, num_heads=4, ffn_dim=48, num_groups=GROUPS
    )
    state = grouped.state_dict()
    assert set(state) - set(plain.state_dict()) == {"group_points", "group_sides"}
    assert all(torch.equal(x, state[name]) for name, x in plain.state_dict().items())
    assert predict(make_model(1), make_batch()).groups == 1


def test_evaluation_reads_the_first_group_alone():
    model = make_model(GROUPS)
    model.decoder.group_sides.data.fill_(torch.nan)
    model.decoder.group_points.data.fill_(torch.nan)
    expected = tensors(predict(group_of(model, 0).eval(), make_batch()))
    found = tensors(predict(model.eval(), make_batch()))
    assert found.keys() == expected.keys()
    assert all(torch.equal(x, expected[name]) for name, x in found.items())


@pytest.mark.parametrize("form", ["bias", "folded"])
@pytest.mark.parametrize("num_objects", [(2, 0, 4), (0, 0, 0), (20, 0, 1)])
def test_training_is_the_mean_of_separate_models(form, num_objects):
    model, batch = make_model(GROUPS, gaussian_form=form), make_batch(num_objects)
    together = predict(model, batch)
    assert together.groups == GROUPS
    singles = [group_of(model, group) for group in range(GROUPS)]
    targets = model.collect_targets(batch)
    matches = model.criterion.match(together, targets)[""]
    for group, single in enumerate(singles):
        single.decoder.gaussian_form = form
        alone = predict(single, batch)
        for name, x in tensors(alone).items():
            part = getattr(together, name)[:, :, group * 12 : (group + 1) * 12]
            assert (part - x).abs().max() < 1e-12, name
        expected = single.criterion.match(alone, targets)[""]
        assert torch.equal(matches.query[group::GROUPS], expected.query)
        assert torch.equal(matches.target[group::GROUPS], expected.target)

    losses, gradients = train_step(model, batch)
    steps = [train_step(single, batch) for single in singles]
    assert losses.keys() == steps[0][0].keys()
    for key, loss in losses.items():
        mean = sum(step[0][key] for step in steps) / GROUPS
        assert abs(loss - mean) < 1e-12 * max(1, abs(mean)), key
    scale = max(x.abs().max() for x in gradients.values())
    for name, gradient in gradients.items():
        if name == "decoder.group_sides":
            own = [step[1]["decoder.reference_sides"] for step in steps[1:]]
            expected = torch.cat(own) / GROUPS
        elif name == "decoder.reference_sides":
            expected = steps[0][1][name] / GROUPS
        else:
            expected = sum(step[1][name] for step in steps) / GROUPS
        assert (gradient - expected).abs().max() < 1e-10 * scale, name


def test_groups_do_not_see_each_other():
    model, batch = make_model(GROUPS), make_batch()
    before = predict(model, batch)
    model.decoder.group_sides.data[12:] += 1
    after = predict(model, batch)
    change = (after.boxes - before.boxes).abs().amax((0, 1, 3)).view(GROUPS, 12).amax(1)
    assert change[:2].max() < 1e-12
    assert change[2] > 1e-3


def test_points_are_shifted_by_the_same_fraction_whatever_the_number_of_groups():
    few, many = (SapDetrDecoder(5, embed_dim=32, num_heads=4, num_groups=k) for k in (3, 11))
    assert torch.equal(few.group_points, many.group_points[: 2 * 306])
    shift = torch.tensor([0.7548776662466927 * 2 % 1, 0.5698402909980532 * 2 % 1])
    second = few.group_points[306:].sigmoid() - few.reference_points.sigmoid()
    inside = second[306 // 2 : 306 // 2 + 8] * torch.tensor([18.0, 17.0])
    assert torch.allclose(inside, shift.expand(8, 2), atol=1e-4)
    assert group_shifts(1).tolist() == [[0, 0]]
    same = SapDetrDecoder(5, embed_dim=32, num_heads=4, num_groups=2, shift_groups=False)
    assert torch.equal(same.group_points, same.reference_points)


def test_number_of_parameters():
    cfg = model_zoo.get_config("sap_group_detr/sap_group_detr_r50_12ep.py").model
    cfg.num_classes = 91
    with torch.device("meta"):
        parameters = list(instantiate(cfg).parameters())
    assert sum(p.numel() for p in parameters) == 50_391_687 + 12_240 + 6_120
    assert sum(p.numel() for p in parameters if p.requires_grad) == 50_168_675 + 12_240


def test_published_checkpoints_go_in_and_out():
    names = NAME_MAPS["sap_detr"]
    published = names.to_published(make_model(1, seed=3).state_dict())
    model = make_model(GROUPS)
    before = copy.deepcopy(model.state_dict())
    report = load_weights(model, published)
    assert sorted(report.training_only) == ["decoder.group_points", "decoder.group_sides"]
    report.require_complete()
    after = model.state_dict()
    assert torch.equal(after["decoder.group_sides"], before["decoder.group_sides"])
    with pytest.raises(CheckpointError, match="group_points"):
        names.to_published(after)
    kept = {name: x for name, x in after.items() if not names.is_training_only(name)}
    again = names.to_published(kept)
    assert again.keys() == published.keys()
    assert all(torch.equal(x, published[name]) for name, x in again.items())


def test_metrics_are_of_the_first_group(monkeypatch):
    """Comparable with SAP-DETR's curves."""
    from detectron2.utils.events import EventStorage

    model, batch = make_model(GROUPS), make_batch()
    model.criterion.metric_period = 1
    logged = []
    for trained in (model, group_of(model, 0)):
        trained.criterion.metric_period = 1
        with EventStorage() as storage:
            trained(batch)
            logged.append({name: x for name, (x, _) in storage.latest().items()})
    assert logged[0] == pytest.approx(logged[1])


def test_the_normaliser_is_not_clamped_per_group():
    model, batch = make_model(GROUPS), make_batch((0, 0, 0))
    targets = model.collect_targets(batch)
    assert isinstance(targets, Targets)
    assert object_normalizer(0, like=targets.boxes) == 1
    assert torch.isfinite(sum(model(batch).values()))
