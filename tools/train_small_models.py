#!/usr/bin/env python
"""Train the small models that come with the package: from nothing, on generated images.

    tools/train_small_models.py                       # all, within an hour on two CPU cores
    tools/train_small_models.py small_sap_detr        # only this one

Each becomes a file of float16 numbers in sap_detr/small_models/, which says how it was made and
which AP it has as it lies there. What a training leaves is in the output folder.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tabulate import tabulate

from sap_detr import __version__
from sap_detr.arguments import ArgumentParser
from sap_detr.checkpoint import load_checkpoint_file, save_checkpoint_file
from sap_detr.config import load_config
from sap_detr.engine import DetectionTrainer, prepare_data, setup_run
from sap_detr.engine.launch import USER_ERRORS
from sap_detr.engine.main import evaluate

FOLDER = Path(__file__).parents[1] / "sap_detr" / "small_models"


@dataclass(frozen=True)
class Recipe:
    """What a small model is trained with.

    Attributes:
        config: name of a config.
        changes: to the config: narrower, so that a model has at most two million numbers, and as
            long as a quarter of an hour allows.
    """

    config: str
    changes: tuple[str, ...] = ()


_NARROW_LEVELS = (
    "model.neck.embed_dim=64",
    "model.backbone.width=20",
    "model.neck.in_channels=[40,80,160]",
)
RECIPES = {
    "small_sap_detr": Recipe("sap_detr/sap_detr_small_shapes.py", ("train.max_iter=3000",)),
    "small_sam_detr": Recipe(
        "sam_detr/sam_detr_small_shapes.py", ("model.neck.embed_dim=64", "train.max_iter=3000")
    ),
    # On images this small, stride 32 leaves four cells to sample from.
    "small_sam_detr_ms": Recipe(
        "sam_detr/sam_detr_ms_small_shapes.py",
        (*_NARROW_LEVELS, "model.decoder.layer_levels=[1,0,0]", "train.max_iter=4500"),
    ),
    "small_sap_dino_detr": Recipe(
        "sap_dino_detr/sap_dino_detr_small_shapes.py", (*_NARROW_LEVELS, "train.max_iter=2000")
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("train_small_models.py", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}")
    parser.add_argument(
        "--output", type=Path, default=Path("output/small_models"), metavar="FOLDER"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - RECIPES.keys()):
        parser.error(f"there is no {unknown[0]}: choose from {', '.join(RECIPES)}")
    rows = []
    try:
        for name in args.names or RECIPES:
            rows.append({"model": name, **make(name, args.output, args.seed, args.opts)})
    except USER_ERRORS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"\n{tabulate(rows, headers='keys', floatfmt='.1f', tablefmt='github')}")
    return 0


def make(name: str, output: Path, seed: int, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Train a model, write its file and return its figures.

    Args:
        name: of the recipe and of the file.
        output: folder for data and trainings.
        seed: of the training.
        changes: to the config, beyond those of the recipe.
    """
    recipe = RECIPES[name]
    changes = [*recipe.changes, *changes]
    folder = output / name
    own = [f"train.output_dir={folder}", f"dataset.folder={output / 'shapes'}"]
    cfg = load_config(recipe.config, [*own, f"train.seed={seed}", *changes])
    prepare_data(cfg)
    start = time.perf_counter()
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    minutes = (time.perf_counter() - start) / 60
    file = folder / f"{name}.safetensors"
    content = halved(load_checkpoint_file(folder / "model_final.safetensors"))
    save_checkpoint_file(content, file)
    figures = average_precision(cfg, file)
    made = {
        "config": recipe.config,
        "changes": changes,
        "seed": seed,
        "iterations": trainer.max_iter,
        "data": "generated images: sap_detr.data.register_shapes with the config's settings",
        "sap_detr": __version__,
        **figures,
    }
    FOLDER.mkdir(exist_ok=True)
    packed = FOLDER / file.name
    save_checkpoint_file({**content, "training": made}, packed)
    megabytes = packed.stat().st_size / 1e6
    return {**figures, "iterations": trainer.max_iter, "MB": megabytes, "minutes": minutes}


def halved(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint whose floating point tensors are float16."""
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint["model"].items()
    }
    return {**checkpoint, "model": state}


def average_precision(cfg: DictConfig, file: Path) -> dict[str, float]:
    """Evaluate a file on the config's validation images."""
    cfg.train.init_checkpoint = str(file)
    found = evaluate(cfg)["bbox"]
    return {key: round(float(found[key]), 2) for key in ("AP", "AP50")}


if __name__ == "__main__":
    sys.exit(main())
