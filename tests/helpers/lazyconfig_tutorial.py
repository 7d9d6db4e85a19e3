"""Follows the steps of Detectron2's LazyConfig tutorial with its own parts only, none of ours.

Usage: lazyconfig_tutorial.py OUTPUT_FOLDER CONFIG ... -- CHANGE ...

Trains, goes on from the checkpoint, evaluates and analyses what each config describes, and writes
what it found to OUTPUT_FOLDER/found.json.
"""

import json
import sys
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.analysis import (
    FlopCountAnalysis,
    activation_count_operators,
    parameter_count,
)


def load(config, changes):
    cfg = LazyConfig.load(config)
    return LazyConfig.apply_overrides(cfg, changes)


def build_model(cfg):
    return instantiate(cfg.model).to(cfg.train.device)


def evaluate(cfg, model):
    evaluator = instantiate(cfg.dataloader.evaluator)
    return inference_on_dataset(model, instantiate(cfg.dataloader.test), evaluator)


def train(cfg, resume):
    """Train until ``train.max_iter``; return the first iteration and the rates by iteration."""
    model = build_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = SimpleTrainer(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model)),
            hooks.PeriodicWriter(writers, period=cfg.train.log_period),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, cfg.train.max_iter)
    lines = (Path(cfg.train.output_dir) / "metrics.json").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "total_loss" in record]
    return start, {str(record["iteration"]): record["lr"] for record in records}


def analyse(cfg):
    model = build_model(cfg).eval()
    inputs = next(iter(instantiate(cfg.dataloader.test)))
    return {
        "flops": FlopCountAnalysis(model, inputs).total(),
        "activations": sum(activation_count_operators(model, inputs).values()),
        "parameters": parameter_count(model)[""],
        "structure": str(model),
    }


def main():
    split = sys.argv.index("--")
    folder, configs, changes = Path(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1 :]
    found = {}
    for config in configs:
        name = Path(config).stem
        common = [*changes, "train.init_checkpoint=", f"train.output_dir={folder / name}"]
        cfg = load(config, common)
        default_setup(cfg, default_argument_parser().parse_args([]))
        first, _ = train(cfg, resume=False)
        second, rates = train(load(config, [*common, "train.max_iter=3"]), resume=True)
        model = build_model(cfg)
        DetectionCheckpointer(model).load(str(folder / name / "model_final.pth"))
        found[name] = {
            "starts": [first, second],
            "rates": rates,
            "results": evaluate(cfg, model)["bbox"],
            **analyse(cfg),
        }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
