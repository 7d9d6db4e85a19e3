"""Options and settings for all tests."""

import io
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from sap_detr.config import load_config


def pytest_addoption(parser):
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=Path(__file__).parent / "golden",
        metavar="DIR",
        help="folder of the golden cases (NAME.json with NAME.npz) to compare with",
    )


# Runs leave handlers behind, whose streams pytest closes after their test.
logging.raiseExceptions = False


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    os.environ["SAP_DETR_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)


@pytest.fixture
def damage_image() -> Callable[[Path], None]:
    """Makes an image one whose header is in order and whose pixels can't be decoded."""

    def damage(path: Path) -> None:
        content = io.BytesIO()
        with Image.open(path) as image:
            image.save(content, "PNG")  # JPEG decoders put up with nearly anything
        data = bytearray(content.getvalue())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)

    return damage


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tiny_shapes")


@pytest.fixture
def tiny_overrides(shapes_folder, tmp_path) -> list[str]:
    """Changes that turn ``detr/detr_small_shapes.py`` into a run of seconds."""
    return [
        "dataset.name=tiny_shapes",
        f"dataset.folder={shapes_folder}/set",
        "dataset.num_train=18",
        "dataset.num_val=5",
        "dataset.image_size=[64,64]",
        "dataloader.train.mapper.augmentations.short_sides=[56,64]",
        "dataloader.test.mapper.augmentations.short_side=64",
        "dataloader.train.total_batch_size=4",
        "model.backbone.width=8",
        "model.neck.in_channels=[16]",
        "model.neck.embed_dim=32",
        "model.encoder.num_layers=1",
        "model.encoder.ffn_dim=32",
        # So that resuming is seen to restore random numbers.
        "model.encoder.dropout=0.1",
        "model.decoder.num_layers=2",
        "model.decoder.num_queries=8",
        "model.decoder.ffn_dim=32",
        "lr_multiplier.warmup_length=0.2",
        "train.log_period=2",
        "train.eval_period=null",
        "train.checkpointer.period=null",
        "train.ema.enabled=false",
        "model.criterion.metric_period=2",
        "train.device=cpu",
        f"train.output_dir={tmp_path}/run",
    ]


@pytest.fixture
def tiny_config(tiny_overrides):
    return load_config("detr/detr_small_shapes.py", tiny_overrides)
