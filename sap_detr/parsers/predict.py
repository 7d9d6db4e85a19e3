"""Detect objects in images, folders of images, a video or a webcam; draw them or write them down.

    sap-detr predict --weights output/run/model_best.safetensors --input photo.jpg folder/
    sap-detr predict --config-file detr/detr_r50_500ep --weights detr-r50-e632da11.pth \\
        --input folder/ --json results.json --csv table.csv --draw pictures/
    sap-detr predict --weights output/run/model_best.safetensors --video street.mp4

Weights may be ours or published ones; those that do not describe their model need --config-file.
Pictures are drawn unless --json or --csv is all that is asked for. With --json alone nothing is
left out by score, so that AP can be computed of it.

Many pictures: with --shard I/N, or started by torchrun or srun, each process takes its share, and
the last to finish writes the result. With --resume what was interrupted goes on where it was:

    sap-detr predict ... --input pictures/ --json results.json --resume --shard $TASK/100

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

from ..arguments import path, positive_int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr predict``."""
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="a config, or the name of one (default: what the weights say of their model)",
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=path, metavar="FILE", help="checkpoint to load")
    weights.add_argument(
        "--random-weights", action="store_true", help="go without, to try out everything else"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        type=path,
        metavar="PATH",
        help="images, folders of images, globs such as 'folder/**/*.jpg'",
    )
    source.add_argument("--video", type=path, metavar="FILE", help="video file")
    source.add_argument(
        "--webcam", type=int, metavar="N", help="number of the camera, most often 0"
    )
    _add_outputs(parser)
    _add_limits(parser)
    _add_job(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config"
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--draw",
        "--output",
        type=path,
        metavar="FOLDER",
        help="where to draw (default: output/demo, or nowhere with --json or --csv)",
    )
    parser.add_argument("--json", type=path, metavar="FILE", help="write COCO results")
    parser.add_argument("--csv", type=path, metavar="FILE", help="write a table of detections")
    parser.add_argument(
        "--annotations",
        type=path,
        metavar="FILE",
        help="COCO annotations that have the ids of images and categories (default: images are "
        "numbered from 1, and a file beside the result says how)",
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


def _threshold(text: str) -> float | str:
    return text if text == "best" else float(text)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=_threshold,
        help="lowest score, or best: for each class what a report found, which the weights hold "
        "(default: 0.5; 0 in what --json writes)",
    )
    parser.add_argument(
        "--top-k",
        type=positive_int,
        metavar="N",
        help="most detections of an image (default: 100; all in what --json writes)",
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="look for these only, by name or number"
    )
    parser.add_argument(
        "--tile",
        nargs=3,
        type=int,
        metavar=("HEIGHT", "WIDTH", "OVERLAP"),
        help="cut larger images into tiles; the overlap should be no less than the largest object",
    )
    parser.add_argument(
        "--max-frames", type=positive_int, metavar="N", help="where to stop a video or webcam"
    )


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=1,
        metavar="N",
        help="images of equal size that are looked at together (default: %(default)s)",
    )
    parser.add_argument(
        "--shard", metavar="I/N", default="1/1", help="take the I-th of N shares of the images"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the --json or --csv of an earlier run"
    )
    parser.add_argument(
        "--stop-at-first-error",
        action="store_true",
        help="end at the first image that can't be used, with exit status 2",
    )
