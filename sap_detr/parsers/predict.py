"""Detect objects in images, folders of images, a video or a webcam, and draw them.

    sap-detr predict --config-file detr/detr_r50_500ep --weights detr-r50-e632da11.pth \\
        --input photo.jpg folder/ --output output/pictures
    sap-detr predict --config-file output/run/config.yaml --weights output/run/model_final.pth \\
        --video street.mp4
    sap-detr predict --config-file output/run/config.yaml --weights output/run/model_final.pth \\
        --input photo.jpg --points

Pictures and videos are written to the output folder. Weights may be ours or published ones.
With --points (SAP-DETR, SAP-DINO-DETR) pictures also show how the points of the detections move
through the decoder, and the folder attention/ what their queries look at in each layer.

Changes to the config come behind --opts. Those used most:

    model.num_classes=N                                 where nothing names the classes
    dataloader.test.mapper.augmentations.short_side=N   size at which images are looked at
    dataloader.pixel_range=bits=12                      images of more than 8 bits
    train.weights=raw                                   not the moving average

Images that can't be used are left out, counted and listed at the end. The exit status is 0 if all
were used, 1 if some were, 2 if none was or if what is asked for can't be done.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr predict``."""
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a config, or the name of one"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint to load")
    weights.add_argument(
        "--random-weights", action="store_true", help="go without, to try out everything else"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", type=Path, metavar="PATH", help="images, and folders of images"
    )
    source.add_argument("--video", type=Path, metavar="FILE", help="video file")
    source.add_argument(
        "--webcam", type=int, metavar="N", help="number of the camera, most often 0"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("output/demo"),
        metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="lowest score to show (default: %(default)s)"
    )
    parser.add_argument(
        "--top-k", type=int, default=100, help="most boxes to show (default: %(default)s)"
    )
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="where to stop a video or webcam"
    )
    parser.add_argument(
        "--points",
        type=int,
        nargs="?",
        const=6,
        metavar="N",
        help="draw the points' paths, and the attention of the N best detections (default: "
        "%(const)s) of each image",
    )
    parser.add_argument(
        "--stop-at-first-error",
        action="store_true",
        help="end at the first image that can't be used, with exit status 2",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the config's)")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config"
    )
