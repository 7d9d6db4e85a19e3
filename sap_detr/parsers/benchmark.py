"""Measure what configs cost: parameters, FLOPs, speed and memory.

    sap-detr benchmark params --config-file detr/detr_r50_500ep.py sap_detr/sap_detr_r50_50ep.py
    sap-detr benchmark flops --config-file detr/detr_r50_500ep.py --coco-val2017 file id
    sap-detr benchmark speed --config-file sap_detr/sap_detr_r50_50ep.py --threads 2
    sap-detr benchmark memory --config-file sap_detr/sap_detr_r50_50ep.py --sizes 320 480 640
    sap-detr benchmark profile --config-file sap_detr/sap_detr_r50_50ep.py --mode training
    sap-detr benchmark runtimes --config-file sap_detr/sap_detr_r50_50ep.py --threads 2
    sap-detr benchmark loader --folder coco

Prints tables, and writes them to files where asked to. No weights are needed, and no data: images
and objects are random, except for `loader`, which times the reading of files.

Changes to all the configs come behind --overrides, such as model.backbone.dc5=true or
model.decoder.num_queries=100. Options of each: `sap-detr benchmark speed --help`.
"""

from __future__ import annotations

import argparse

from ..arguments import path, positive_int

# As the library has them, which can't be imported here.
DTYPES = ("float32", "bfloat16")
MODES = ("inference", "training")
ORDERS = ("file", "id")
RUNTIMES = (
    "pt2-float32",
    "onnx-float32",
    "onnx-float16",
    "onnx-int8",
    "openvino-float32",
    "openvino-float16",
    "openvino-bfloat16",
    "openvino-int8",
)
READERS = ("pil", "fast", "device")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sap-detr benchmark``: one more sub-command says what is measured."""
    commands = parser.add_subparsers(dest="measure", required=True, metavar="MEASURE")
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument("--json", type=path, metavar="FILE", help="write all numbers here")
    files.add_argument("--markdown", type=path, metavar="FILE", help="write the tables here")

    common = argparse.ArgumentParser(add_help=False, parents=[files])
    common.add_argument(
        "--config-file",
        nargs="+",
        required=True,
        metavar="NAME",
        help="LazyConfig files, or names such as detr/detr_r50_500ep.py",
    )
    common.add_argument(
        "--num-classes",
        type=positive_int,
        metavar="C",
        help="number of classes (default: the config's own; 91 where its data set would say)",
    )
    common.add_argument(
        "--overrides",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="changes to all the configs, such as model.backbone.dc5=true",
    )

    depth = argparse.ArgumentParser(add_help=False)
    depth.add_argument(
        "--depth",
        type=positive_int,
        default=1,
        help="of the parts: 1 is backbone, neck, ...; 2 is their parts, ... (default: %(default)s)",
    )

    commands.add_parser("params", parents=[common, depth], help="count parameters")

    flops = commands.add_parser("flops", parents=[common, depth], help="count multiply-adds")
    flops.add_argument(
        "--size",
        nargs=2,
        type=positive_int,
        metavar=("H", "W"),
        help="size of the image in pixels (default: 800 1066, unless --coco-val2017 is given)",
    )
    flops.add_argument(
        "--coco-val2017",
        nargs="+",
        choices=ORDERS,
        default=[],
        help="mean over the first 100 images of COCO val2017 at 800/1333, in the order of the "
        "annotation file (published figures) or of the ids; their sizes are recorded",
    )

    measured = _measured_options(common)
    speed = commands.add_parser("speed", parents=[measured], help="time inference and training")
    speed.add_argument(
        "--repeats", type=positive_int, default=10, help="rounds (default: %(default)s)"
    )
    speed.add_argument(
        "--warm-up", type=int, default=2, help="rounds before that (default: %(default)s)"
    )
    speed.add_argument(
        "--relative-to-body",
        action="store_true",
        help="also in units of the body of torchvision's ResNet-50, measured in turns with it",
    )
    speed.add_argument("--inference-only", action="store_true", help="leave the training step out")
    speed.add_argument(
        "--data",
        metavar="FOLDER",
        help="train on the images of a data set in COCO format, with the loader of the config",
    )

    runtimes = commands.add_parser(
        "runtimes", parents=[measured], help="time exported files beside the model, on the CPU"
    )
    runtimes.add_argument(
        "--runtimes",
        nargs="+",
        choices=RUNTIMES,
        default=("onnx-float32", "openvino-float32"),
        help="(default: onnx-float32 openvino-float32)",
    )
    runtimes.add_argument(
        "--repeats", type=positive_int, default=10, help="rounds (default: %(default)s)"
    )

    commands.add_parser("memory", parents=[measured], help="largest memory")

    profile = commands.add_parser("profile", parents=[measured], help="where the time goes")
    profile.add_argument("--mode", nargs="+", choices=MODES, default=MODES)
    profile.add_argument("--top", type=positive_int, default=20, help="rows (default: %(default)s)")
    profile.add_argument(
        "--depth", type=positive_int, default=4, help="of the modules (default: %(default)s)"
    )

    loader = commands.add_parser("loader", parents=[files], help="time the training mapper")
    loader.add_argument("--folder", required=True, metavar="DIR", help="data set in COCO format")
    loader.add_argument(
        "--config-file",
        nargs="+",
        default=["common/data/coco.py"],
        metavar="NAME",
        help="configs whose mapper is timed (default: common/data/coco.py)",
    )
    loader.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE")
    loader.add_argument(
        "--readers", nargs="+", choices=READERS, default=READERS, help="(default: all)"
    )
    loader.add_argument(
        "--limit", type=positive_int, default=100, help="of images (default: %(default)s)"
    )
    loader.add_argument(
        "--repeats", type=positive_int, default=3, help="rounds (default: %(default)s)"
    )


def _measured_options(common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of everything that runs a model."""
    parser = argparse.ArgumentParser(add_help=False, parents=[common])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--size",
        nargs=2,
        type=positive_int,
        default=(640, 800),
        metavar=("H", "W"),
        help="size of the images in pixels (default: 640 800)",
    )
    sizes.add_argument(
        "--sizes",
        nargs="+",
        type=positive_int,
        default=[],
        metavar="S",
        help="several sizes: sides of square images in pixels",
    )
    parser.add_argument(
        "--batch", type=positive_int, default=1, help="images of a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--objects", type=positive_int, default=7, help="of each image (default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: the GPU if there is one"
    )
    parser.add_argument("--threads", type=positive_int, help="of torch (default: its own)")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="bfloat16 is mixed precision (default: %(default)s)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network, as train.compile does"
    )
    return parser
