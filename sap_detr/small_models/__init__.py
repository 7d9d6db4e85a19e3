"""Small models that come with the package, trained on generated images of shapes.

What they are for: to see everything work a minute after installation, and to test on models that
have learnt something. ``tools/train_small_models.py`` made them. Nothing is imported for their
names and what their files say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class SmallModel:
    """A small model.

    Attributes:
        name: such as "small_sap_detr".
        file: its weights, which describe their model.
    """

    name: str
    file: Path

    def training(self) -> dict[str, Any]:
        """Return how it was trained: config and changes to it, seed, AP and so on."""
        with self.file.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found: dict[str, Any] = json.loads(header["__metadata__"]["training"])
        return found


def small_models() -> list[SmallModel]:
    """Return all small models, by name."""
    return [SmallModel(file.stem, file) for file in sorted(_FOLDER.glob("*.safetensors"))]
