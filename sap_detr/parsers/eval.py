"""Evaluate weights on the validation data of a config.

    sap-detr eval --config-file detr/detr_r50_500ep.py --weights detr-r50-e632da11.pth
    sap-detr eval --config-file output/run/config.yaml --weights output/run/model_final.pth \\
        --report output/report
    sap-detr eval --results coco_instances_results.json --annotations val.json --images val \\
        --report output/report --against output/other_report

A report says where a model fails and which threshold to use: results.json for programs, and
report.html, a page that needs nothing but a browser.

Changes to the config come last. Those used most:

    dataset.folder=FOLDER                   one's own: COCO, YOLO, VOC (recipes *_custom)
    dataset.val=NAME                        its split to evaluate, such as test
    train.output_dir=FOLDER                 where logs go
    train.weights=raw                       not the moving average, where there is one
    train.device=cpu
"""

from __future__ import annotations

import argparse

from ..arguments import path
from .train import add_overrides, add_process_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr eval``."""
    parser.add_argument("--config-file", metavar="FILE", help="a config, or the name of one")
    parser.add_argument(
        "--weights", metavar="FILE", help="ours or published ones (default: train.init_checkpoint)"
    )
    parser.add_argument(
        "--report", type=path, metavar="FOLDER", help="write a report of the detections"
    )
    parser.add_argument(
        "--results", type=path, metavar="FILE", help="report on COCO's results instead of running"
    )
    parser.add_argument(
        "--annotations", type=path, metavar="FILE", help="COCO annotations, for --results"
    )
    parser.add_argument(
        "--images", type=path, metavar="FOLDER", help="the images, for --results (default: none)"
    )
    parser.add_argument(
        "--against",
        type=path,
        metavar="PATH",
        help="compare with a report, COCO's results (.json), or weights, in the report",
    )
    add_process_options(parser)
    add_overrides(parser)
