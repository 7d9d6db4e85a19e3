"""Options and settings for all tests."""

from pathlib import Path

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=Path(__file__).parent / "golden",
        metavar="DIR",
        help="folder of the golden cases (NAME.json with NAME.npz) to compare with",
    )


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
