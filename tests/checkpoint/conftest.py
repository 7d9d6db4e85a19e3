from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

GOLDEN = Path(__file__).parents[1] / "golden"
State = dict[str, torch.Tensor]


def _published_detr(num_classes: int = 91) -> State:
    """DETR-R50's published names with small tensors, all values of which are different."""
    names = json.loads((GOLDEN / "detr_r50_91.json").read_text())["parameters"]
    state = {}
    for index, (name, shape) in enumerate(names.items()):
        rows = num_classes + 1 if name.startswith("class_embed") else 2
        columns = 2 if len(shape) > 1 else 1
        values = 1000.0 * index + torch.arange(rows * columns)
        state[name] = values.view(rows, columns) if columns > 1 else values
    return state


@pytest.fixture
def published_detr() -> Callable[..., State]:
    return _published_detr


class StateModel(nn.Module):
    """A model that is nothing but its state dict: tensors of -7 under dotted names."""

    def __init__(self, state: State, num_classes: int | None = None) -> None:
        super().__init__()
        if num_classes is not None:
            self.num_classes = num_classes
        for name, value in state.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(leaf, torch.full_like(value, -7.0))


@pytest.fixture
def state_model() -> type[StateModel]:
    return StateModel
