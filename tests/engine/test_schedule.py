import pytest
import torch

from sap_detr.engine import EpochSchedule


def test_drops_are_counted_in_epochs():
    schedule = EpochSchedule(epochs=50, drop_epochs=[40], drop_factor=0.1)
    # SAP-DETR's recipe on COCO with 16 images: 118287 // 16 = 7392 whole batches an epoch.
    assert schedule.num_iterations(7392) == 369600
    assert schedule.factor(295679, 7392) == 1.0
    assert schedule.factor(295680, 7392) == pytest.approx(0.1)


def test_warmup_multiplies_the_drops():
    schedule = EpochSchedule(10, [1, 2], 0.5, warmup_iters=10, warmup_factor=0.2)
    assert schedule.factor(0, 4) == pytest.approx(0.2)
    assert schedule.factor(5, 4) == pytest.approx(0.5 * 0.6)
    assert schedule.factor(8, 4) == pytest.approx(0.25 * (0.2 * 0.2 + 0.8))
    assert schedule.factor(10, 4) == pytest.approx(0.25)


def test_every_group_follows_and_the_state_is_restored():
    def build():
        groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1.0, 0.1)]
        optimizer = torch.optim.AdamW(groups)
        return optimizer, EpochSchedule(4, [2], 0.1).build(optimizer, iterations_per_epoch=3)

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


def test_length_must_be_positive():
    with pytest.raises(ValueError, match="epochs"):
        EpochSchedule(epochs=0)
