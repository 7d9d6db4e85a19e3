"""Evaluate weights on the validation data of a config.

    sap-detr eval --config-file detr/detr_r50_500ep.py --weights detr-r50-e632da11.pth
    sap-detr eval --config-file output/run/config.yaml --weights output/run/model_final.pth

Changes to the config come last. Those used most:

    dataset.folder=FOLDER                   one's own data, in COCO format (recipes *_custom)
    dataset.val=NAME                        its split to evaluate, such as test
    train.output_dir=FOLDER                 where results and logs go
    train.weights=raw                       not the moving average, where there is one
    train.device=cpu
"""

from __future__ import annotations

import argparse

from .train import add_overrides, add_process_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr eval``."""
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a config, or the name of one"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="ours or published ones (default: train.init_checkpoint)"
    )
    add_process_options(parser)
    add_overrides(parser)
