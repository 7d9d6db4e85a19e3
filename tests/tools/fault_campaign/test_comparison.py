import json

import pytest
import torch
from fault_campaign.comparison import first_difference, metrics_problem

from sap_detr.checkpoint import save_checkpoint_file


def checkpoint(**changes):
    return {
        "model": {"w": torch.tensor([1.0, 2.0]), "empty": torch.zeros(0)},
        "trainer": {"iteration": 3, "groups": [{"lr": 0.1}], "betas": (0.9, 0.99)},
        **changes,
    }


def test_equal_checkpoints_may_differ_in_the_id_of_the_run(tmp_path):
    for name in "ab":
        save_checkpoint_file(checkpoint(run_id=name), tmp_path / f"{name}.pth")
    assert first_difference(tmp_path / "a.pth", tmp_path / "b.pth") is None


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"model": {"w": torch.tensor([1.0, 2.0 + 2e-7]), "empty": torch.zeros(0)}}, "['w']"),
        ({"model": {"w": torch.tensor([1.0, 2.0]).double(), "empty": torch.zeros(0)}}, "['w']"),
        ({"model": {"w": torch.tensor([1.0, 2.0])}}, "['empty']"),
        ({"trainer": {"iteration": 4}}, "['iteration']"),
        ({"trainer": checkpoint()["trainer"] | {"groups": [{"lr": 0.2}]}}, "['groups'][0]['lr']"),
        ({"trainer": checkpoint()["trainer"] | {"groups": []}}, "['groups']"),
        ({"more": 1}, "['more']"),
    ],
)
def test_every_difference_is_found_and_named(change, place):
    difference = first_difference(checkpoint(), checkpoint(**change), "final")
    assert difference is not None
    assert difference.place.startswith("final[")
    assert difference.place.endswith(place)


def test_bits_count_not_values():
    assert first_difference(torch.tensor([0.0]), torch.tensor([-0.0])) is not None
    nan = torch.tensor([torch.nan])
    assert first_difference(nan, nan.clone()) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"iteration": 0, "total_loss": 1}\n{"iteration": 1, "total_loss": 1}\n', None),
        ('{"iteration": 1, "total_loss": 1}\n{"iteration": 1, "AP": 1}\n', None),
        ('{"iteration": 1, "total_loss": 1}\n{"iteration": 1, "total_loss": 1}\n', "repeats"),
        ('{"iteration": 1, "total_loss": 1}\n{"iter', "line 2 is broken"),
    ],
)
def test_metrics(tmp_path, text, problem):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    found = metrics_problem(path)
    assert found is None if problem is None else problem in found
    assert all(json.loads(line) for line in text.splitlines() if line.endswith("}"))
