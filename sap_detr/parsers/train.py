"""Train what a config describes, on CPU or GPUs, on one machine or several.

    sap-detr train --config-file sap_detr/sap_detr_r50_50ep.py --num-gpus 8
    sap-detr train --config-file sap_detr/sap_detr_r50_custom.py dataset.folder=FOLDER
    sap-detr train --config-file FILE --resume train.output_dir=FOLDER
    torchrun --nproc-per-node 8 -m sap_detr.cli train --config-file FILE --resume

One process per GPU is started, or is there already if torchrun or SLURM's srun started it. Data
and settings are checked before.

Changes to the config come last. Those used most (`sap-detr configs show NAME` prints all keys):

    dataset.folder=FOLDER                   one's own: COCO, YOLO, VOC (recipes *_custom)
    dataset.val_share=0.2                   a part of it to evaluate with, if there is no split
    train.init_checkpoint=FILE              weights to start from, ours or published ones
    train.output_dir=FOLDER                 where checkpoints, metrics and logs go
    train.max_iter=N, train.epochs=N        length (epochs: recipes *_custom)
    train.max_images_per_gpu=N              smaller steps with the same total batch
    train.amp.enabled=true                  mixed precision
    dataloader.train.total_batch_size=N     images of a step, over all GPUs
    optimizer.lr=1e-4

Exit status: 0, 2 for what can't be done (told in one line), 85 if a request to stop was obeyed.
"""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add Detectron2's options of training commands."""
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="a config, or the name of one"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint of train.output_dir, if there is one",
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate train.init_checkpoint instead"
    )
    add_process_options(parser)
    add_overrides(parser)


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Add those that say which processes there are; all are None where they are not given."""
    parser.add_argument(
        "--num-gpus", type=int, metavar="N", help="processes on this machine (default: 1)"
    )
    parser.add_argument("--num-machines", type=int, metavar="N", help="(default: 1)")
    parser.add_argument(
        "--machine-rank", type=int, metavar="I", help="number of this machine, from 0"
    )
    parser.add_argument("--dist-url", metavar="URL", help="of machine 0: tcp://HOST:PORT")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the changes to the config, which end a command line."""
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY=VALUE", help="changes to the config"
    )
