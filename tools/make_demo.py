#!/usr/bin/env python
"""The main job on generated images: data, training, evaluation, pictures. What `make demo` runs.

python tools/make_demo.py
python tools/make_demo.py --config-file detr/detr_small_shapes.py --output output/detr train.seed=1
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import instantiate
from tabulate import tabulate

from sap_detr.arguments import ArgumentParser
from sap_detr.config import load_config
from sap_detr.data import dataset_records
from sap_detr.engine import DetectionTrainer, prepare_data, setup_run
from sap_detr.engine.launch import USER_ERRORS
from sap_detr.visualization import detection_sheet, plot_curves, validation_rows

DEFAULT_CONFIG = "sap_detr/sap_detr_small_shapes.py"


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser("make_demo.py", __doc__)
    parser.add_argument("--config-file", default=DEFAULT_CONFIG, help="file or zoo name")
    parser.add_argument("--output", default="output/demo", help="folder for everything")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config")
    args = parser.parse_args(argv)
    try:
        run(args.config_file, Path(args.output), args.opts)
    except USER_ERRORS as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def run(config: str, output: Path, overrides: Sequence[str]) -> None:
    """Train a model from scratch and leave its AP table, curves and detections in a folder."""
    start = time.perf_counter()
    cfg = load_config(config, [f"train.output_dir={output}", *overrides])
    cfg.train.progress_bar = True
    class_names = prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()

    results = trainer.last_results["bbox"]
    minutes = (time.perf_counter() - start) / 60
    table = tabulate([results], headers="keys", floatfmt=".1f", tablefmt="github")
    report = f"{config}: {trainer.max_iter} iterations, {minutes:.1f} minutes in all\n\n{table}\n"
    (output / "ap.md").write_text(report)
    curves = plot_curves({Path(config).stem: output}, output / "curves.png")
    mapper = instantiate(cfg.dataloader.test.mapper)
    threshold = 0.35
    rows = validation_rows(
        trainer.checkpointer.model,
        dataset_records(cfg.dataloader.test.dataset.names),
        mapper,
        score_threshold=threshold,
        pixel_range=mapper.pixel_range,
    )
    title = f"Left: truth. Right: detections with a score of at least {threshold:g}"
    sheet = detection_sheet(rows, output / "detections.png", class_names, title=title)
    print(f"\n{report}\ntable       {output / 'ap.md'}\ncurves      {curves}\ndetections  {sheet}")


if __name__ == "__main__":
    sys.exit(main())
