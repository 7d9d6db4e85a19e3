import torch
from torch import nn

from sap_detr.engine import ModelEma


def step(model, value):
    with torch.no_grad():
        model.weight.fill_(value)


def test_average_and_restoring():
    model = nn.Linear(1, 1, bias=False)
    ema = ModelEma(model, decay=0.9)
    step(model, 1.0)
    ema.update()
    step(model, 2.0)
    ema.update()
    with ema.applied():
        assert torch.allclose(model.weight, torch.tensor(0.9 * 1 + 0.1 * 2))
    assert model.weight.item() == 2.0

    other_model = nn.Linear(1, 1, bias=False)
    other = ModelEma(other_model, decay=0.9)
    other.load_state_dict(ema.state_dict())
    for m, e in ((model, ema), (other_model, other)):
        step(m, 3.0)
        e.update()
    expected, restored = ema.state_dict(), other.state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in expected.items())


def test_weights_come_back_after_an_error():
    model = nn.Linear(1, 1, bias=False)
    ema = ModelEma(model, decay=0.5)
    ema.update()
    step(model, 5.0)
    try:
        with ema.applied():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert model.weight.item() == 5.0


def test_skipped_step_leaves_the_average():
    averages = []
    for skips in ([False, False], [False, True, False]):
        model = nn.BatchNorm1d(1)
        ema = ModelEma(model, decay=0.9)
        value = 1.0
        for skip in skips:
            if not skip:
                value += 1
            step(model, value if not skip else value + 7)
            model.num_batches_tracked.fill_(int(value))
            ema.update(torch.tensor(skip))
        averages.append({k: v for k, v in ema.state_dict().items() if k != "num_updates"})
    assert averages[0]["weight"] == 2.1
    assert averages[0]["num_batches_tracked"] == 3
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
