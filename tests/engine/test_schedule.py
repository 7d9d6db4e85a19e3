import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from sap_detr.config import ConfigError, load_config
from sap_detr.engine import DetectionTrainer, fill_in_length


def rates(cfg, iterations):
    """The multiplier of the rate in the given iterations, as training computes it."""
    multiplier = instantiate(cfg.lr_multiplier)
    return [multiplier(i / cfg.train.max_iter) for i in iterations]


def test_published_recipe_drops_and_warms_up_at_its_iterations():
    # SAP-DETR's recipe on COCO with 16 images: 118287 // 16 = 7392 whole batches an epoch.
    cfg = load_config("sap_detr/sap_detr_r50_50ep.py")
    assert cfg.train.max_iter == 50 * 7392
    found = rates(cfg, [0, 500, 999, 1000, 40 * 7392 - 1, 40 * 7392, 50 * 7392 - 1])
    expected = [0.001, 0.5 + 0.001 * 0.5, 0.999 + 0.001 * 0.001, 1.0, 1.0, 0.1, 0.1]
    assert found == pytest.approx(expected, rel=1e-12)


def test_recipe_for_own_data_drops_by_epochs():
    cfg = load_config("sap_detr/sap_detr_small_custom.py")
    # 25 whole batches an epoch.
    assert fill_in_length(cfg.train, num_images=203, batch_size=8) == 25
    assert lengths(cfg.train) == (1000, 250, 250)
    found = rates(cfg, [0, 50, 100, 799, 800, 999])
    assert found == pytest.approx([0.001, 0.5005, 1.0, 1.0, 0.1, 0.1], rel=1e-12)


def test_every_group_follows_and_the_state_is_restored():
    cfg = load_config(
        "detr/detr_small_shapes.py",
        ["train.max_iter=12", "lr_multiplier.scheduler.milestones=[2000]"],
    )
    cfg.lr_multiplier.warmup_length = 0.0

    def build():
        groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1.0, 0.1)]
        optimizer = torch.optim.AdamW(groups)
        return optimizer, DetectionTrainer.build_lr_scheduler(cfg, optimizer)

    optimizer, scheduler = build()
    for _ in range(6):
        assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.1]
        optimizer.step()
        scheduler.step()
    dropped = [group["lr"] for group in optimizer.param_groups]
    assert dropped == pytest.approx([0.1, 0.01])
    other_optimizer, other = build()
    other.load_state_dict(scheduler.state_dict())
    other_optimizer.load_state_dict(optimizer.state_dict())
    other_optimizer.step()
    other.step()
    assert other.last_epoch == 7
    assert [group["lr"] for group in other_optimizer.param_groups] == pytest.approx(dropped)


def lengths(train):
    return train.max_iter, train.checkpointer.period, train.eval_period


def settings(**changes):
    given = {"max_iter": None, "eval_period": None, "checkpointer": {"period": None}, **changes}
    return OmegaConf.create(given)


def test_what_the_recipe_leaves_open_comes_from_the_data():
    for changes, expected in (
        ({"epochs": 1.5}, (6, 4, 4)),
        ({"epochs": 2, "max_iter": 3}, (3, 4, 4)),
        ({"max_iter": 3, "eval_period": 0}, (3, 4, 0)),
        ({"max_iter": 3, "checkpointer": {"period": 2}}, (3, 2, 4)),
    ):
        train = settings(**changes)
        assert fill_in_length(train, num_images=18, batch_size=4) == 4
        assert lengths(train) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "set train.max_iter"),
        ({"epochs": 0}, r"train\.epochs .* got 0"),
        ({"max_iter": 0}, r"train\.max_iter .* got 0"),
        ({"max_iter": 2.5}, r"train\.max_iter .* got 2\.5"),
        ({"max_iter": 3, "eval_period": -1}, r"train\.eval_period .* got -1"),
        ({"max_iter": 3, "checkpointer": {"period": 0}}, r"train\.checkpointer\.period .* got 0"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        fill_in_length(settings(**changes), 18, 4)


def test_a_multiplier_that_does_not_fit_together_is_refused():
    cfg = load_config("detr/detr_small_shapes.py", ["lr_multiplier.scheduler.milestones=[1,2,3]"])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ConfigError, match="lr_multiplier can't be built"):
        DetectionTrainer.build_lr_scheduler(cfg, optimizer)
