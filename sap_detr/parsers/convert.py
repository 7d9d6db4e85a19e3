"""Convert checkpoints of published DETR-family code to this code base's names, and back.

    sap-detr convert detr-r50-e632da11.pth detr_r50.pth --classes coco80
    sap-detr convert detr_r50.pth published.pth --to published --classes coco91
    sap-detr convert output/train/model_0009999.pth mine.safetensors \\
        --config-file output/train/config.yaml
    sap-detr convert output/train/model_best.safetensors mine.safetensors --thresholds output/report

The form of INPUT is recognised by its parameter names. Only weights are converted: optimizer,
schedule and iteration belong to the code that wrote them and are left out. Nothing in INPUT is
executed. With --config-file OUTPUT holds its model's config as data, too, so that Detector(OUTPUT)
needs nothing beside it.
"""

from __future__ import annotations

import argparse

from ..arguments import path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr convert``."""
    parser.add_argument(
        "input",
        metavar="INPUT",
        type=path,
        help="checkpoint: .pth, .pkl or .safetensors, or a name of sap-detr weights list",
    )
    parser.add_argument(
        "output", metavar="OUTPUT", type=path, help="file to write: .pth or .safetensors"
    )
    parser.add_argument(
        "--to",
        choices=("ours", "published"),
        default="ours",
        help="names in OUTPUT (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        metavar="METHOD",
        help="published form, such as detr, hugging_face_detr, sap_detr, sam_detr or dino; needed "
        "only where the names fit several (default: recognised, the authors' own)",
    )
    parser.add_argument(
        "--classes",
        choices=("keep", "coco80", "coco91"),
        default="keep",
        help="rows of the class head. coco80: select the 80 ids in use from a model of 91 classes "
        "(row = category id). coco91: the way back; rows of unused ids can't be recovered and are "
        "set so that they are never detected. (default: %(default)s)",
    )
    parser.add_argument(
        "--drop-training-only",
        action="store_true",
        help="leave out what inference does not read and a published file has no name for: the "
        "further groups of SAP-Group-DETR",
    )
    parser.add_argument(
        "--weights",
        choices=("scored", "raw"),
        default="scored",
        help="which weights of a training with a moving average: the average, which was scored, or "
        "the raw ones (default: %(default)s)",
    )
    parser.add_argument(
        "--config-file",
        metavar="CONFIG",
        help="config of the model, or the name of one: OUTPUT, a .safetensors file, describes it",
    )
    parser.add_argument(
        "--thresholds",
        type=path,
        metavar="REPORT",
        help="report of sap-detr eval on INPUT, whose best thresholds OUTPUT shall hold, for "
        "--threshold best; INPUT or --config-file describes the model",
    )
