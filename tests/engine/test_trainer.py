"""Whole short runs on the CPU: everything between a config and a checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator

from sap_detr.checkpoint import load_checkpoint_file
from sap_detr.config import ConfigError, add_sap_detr_config, load_config
from sap_detr.engine import (
    DetectionTrainer,
    StepTrainer,
    accumulation_steps,
    prepare_data,
    setup_run,
)
from sap_detr.engine.main import evaluate
from sap_detr.engine.setup import accelerate
from sap_detr.modeling import DetectionTransformer


def train(overrides, resume=False):
    cfg = load_config("detr/detr_small_shapes.py", overrides)
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_run_leaves_metrics_checkpoints_and_config(tiny_overrides, tmp_path):
    trainer = train([*tiny_overrides, "train.max_iter=6", "train.ema.enabled=true"])
    out = tmp_path / "run"
    # 18 images // 4 per iteration = 4 iterations an epoch.
    assert (trainer.iterations_per_epoch, trainer.max_iter) == (4, 6)

    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    merged = {key for line in lines for key in line}
    assert {"total_loss", "loss_class", "loss_class_0", "loss_giou", "grad_norm", "epoch"} <= merged
    assert {"bbox/AP", "bbox/AP50", "class_error"} <= merged
    assert next(line["iteration"] for line in lines if "bbox/AP" in line) == 3

    final = load_checkpoint_file(out / "model_final.pth")
    assert final["trainer"]["iteration"] == 5
    assert final["class_names"] == list(trainer.checkpointer.class_names)
    assert len(final["class_names"]) == 6
    assert (out / "model_best.pth").is_file()
    assert (out / "model_0000003.pth").is_file()
    # The average is another model than the last one, and has seen every step.
    assert final["ema"]["num_updates"] == 6
    name = "decoder.query_embed.weight"
    assert not torch.equal(final["raw_model"][name], final["model"][name])

    # Of a fine-tuning recipe without a checkpoint nothing else would tell.
    assert (out / "log.txt").read_text().count("all weights start from random numbers") == 1

    # Otherwise memory grows from step to step.
    assert trainer.storage.history("total_loss")._max_length == 200

    saved = load_config(str(out / "config.yaml"))
    assert saved.model.num_classes == 6
    assert saved.train.class_names == final["class_names"]


def test_resumed_run_equals_an_uninterrupted_one(tiny_overrides, tmp_path, monkeypatch):
    common = [*tiny_overrides, "train.eval_period=0", "train.ema.enabled=true"]
    common += ["dataloader.test.dataset.names=[]", "lr_multiplier.scheduler.milestones=[2000]"]
    common += ["train.max_iter=8", "train.checkpointer.period=3"]

    def run(folder, resume=False, last="final"):
        train([*common, f"train.output_dir={tmp_path / folder}"], resume)
        return load_checkpoint_file(tmp_path / folder / f"model_{last}.pth")

    class Ended(Exception):
        pass

    def end_in_the_fourth_iteration(self):
        if self.iter == 3:
            raise Ended
        take_step(self)

    whole = run("whole")
    take_step = StepTrainer.run_step
    with monkeypatch.context() as patch:
        patch.setattr(StepTrainer, "run_step", end_in_the_fourth_iteration)
        with pytest.raises(Ended):
            run("parts")
    assert not (tmp_path / "parts" / "model_final.pth").exists()
    resumed = run("parts", resume=True)
    assert resumed["trainer"]["iteration"] == whole["trainer"]["iteration"] == 7
    for part in ("model", "raw_model"):
        assert whole[part].keys() == resumed[part].keys()
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), f"{part}: {name}"
    fresh = run("other", last="0000002")
    name = "decoder.query_embed.weight"
    assert not torch.equal(fresh["model"][name], whole["model"][name])


@pytest.mark.parametrize("option", ["compile.enabled", "activation_checkpointing"])
def test_faster_or_smaller_training_gives_the_same_weights(
    option, tiny_overrides, tmp_path, monkeypatch
):
    common = [*tiny_overrides, "train.max_iter=4", "dataloader.test.dataset.names=[]"]
    # What is compiled draws other random numbers.
    common += ["model.encoder.dropout=0", "model.decoder.dropout=0", "model.size_multiple=32"]
    common += ["train.compile.backend=aot_eager"]
    used = []
    for name in ("compile_network", "predict"):
        original = getattr(DetectionTransformer, name)
        monkeypatch.setattr(DetectionTransformer, name, recorded(used, name, original))
    name = "checkpoint_activations"
    monkeypatch.setitem(
        accelerate.__globals__, name, recorded(used, name, accelerate.__globals__[name])
    )

    def run(*extra):
        train([*common, *extra])
        return load_checkpoint_file(tmp_path / "run" / "model_final.pth")["model"]

    plain = run()
    assert used == ["predict"] * 4
    changed = run(f"train.{option}=true", f"train.output_dir={tmp_path / 'run'}")
    assert ("compile_network" in used) == (option == "compile.enabled")
    assert ("checkpoint_activations" in used) == (option == "activation_checkpointing")
    assert plain.keys() == changed.keys()
    for name, value in plain.items():
        assert torch.allclose(value, changed[name], rtol=1e-3, atol=1e-5), name


def recorded(used, name, method):
    def call(*args, **kwargs):
        used.append(name)
        return method(*args, **kwargs)

    return call


def test_evaluation_compiles_too(tiny_overrides, tmp_path, monkeypatch):
    weights = tmp_path / "run" / "model_final.pth"
    train([*tiny_overrides, "train.max_iter=2", "dataloader.test.dataset.names=[]"])
    used = []
    monkeypatch.setattr(
        DetectionTransformer,
        "compile_network",
        recorded(used, "compiled", DetectionTransformer.compile_network),
    )
    results = []
    for enabled in (False, True):
        options = [f"train.compile.enabled={enabled}", "train.compile.backend=eager"]
        options.append(f"train.init_checkpoint={weights}")
        cfg = load_config("detr/detr_small_shapes.py", [*tiny_overrides, *options])
        prepare_data(cfg)
        results.append(evaluate(cfg)["bbox"])
        assert used == ["compiled"] * enabled
    assert results[0] == pytest.approx(results[1], nan_ok=True)


def test_compiling_images_of_all_sizes_is_warned_of(tiny_config, caplog):
    prepare_data(tiny_config)
    model = instantiate(tiny_config.model)
    tiny_config.train.compile.enabled = True
    accelerate(model, tiny_config.train)
    assert "set model.size_multiple" in caplog.text
    assert "padding_invariant" not in caplog.text
    model.padding_invariant = True
    accelerate(model, tiny_config.train)
    assert "with model.padding_invariant" in caplog.text
    with pytest.raises(ConfigError, match="the model is Linear"):
        accelerate(torch.nn.Linear(1, 1), tiny_config.train)


def test_accumulation_sees_the_same_images(tiny_overrides):
    def image_ids(*extra):
        cfg = load_config("detr/detr_small_shapes.py", [*tiny_overrides, *extra])
        prepare_data(cfg)
        trainer = DetectionTrainer(cfg)
        steps = trainer._trainer.accumulation
        batches = iter(trainer._trainer.data_loader)
        ids = [inputs["image_id"] for _ in range(4 * steps) for inputs in next(batches)]
        return steps, ids

    steps, accumulated = image_ids("train.max_images_per_gpu=2")
    assert steps == 2
    assert (1, accumulated) == image_ids()


@pytest.mark.parametrize("noticed_by", ["checkpoint", "evaluation", "end of training"])
def test_broken_weights_are_not_saved(noticed_by, tiny_overrides, tmp_path):
    periods = {"checkpoint": (3, 0), "evaluation": (1000, 3), "end of training": (1000, 0)}
    checkpoint, evaluation = periods[noticed_by]
    changes = ["train.log_period=100", "train.max_iter=6", f"train.eval_period={evaluation}"]
    changes.append(f"train.checkpointer.period={checkpoint}")
    cfg = load_config("detr/detr_small_shapes.py", [*tiny_overrides, *changes])
    prepare_data(cfg)
    trainer = DetectionTrainer(cfg)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="total_loss"):
        trainer.train()
    assert not list((tmp_path / "run").glob("*.pth"))


@pytest.mark.parametrize(
    ("total", "processes", "most", "steps"),
    [(16, 8, None, 1), (16, 8, 2, 1), (16, 2, 4, 2), (16, 1, 3, 8), (12, 1, 5, 3), (8, 8, 1, 1)],
)
def test_accumulation_keeps_the_total_batch(total, processes, most, steps):
    assert accumulation_steps(total, processes, most) == steps
    assert total % (processes * steps) == 0
    assert most is None or total // processes // steps <= most


def test_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ConfigError, match=r"total_batch_size=16.*3 processes"):
        accumulation_steps(16, 3, None)
    with pytest.raises(ConfigError, match="max_images_per_gpu"):
        accumulation_steps(16, 1, 0)


def test_detectron2s_own_trainer_with_a_yacs_config(tiny_config, tiny_overrides, tmp_path):
    prepare_data(tiny_config)
    cfg = get_cfg()
    add_sap_detr_config(cfg)
    cfg.MODEL.LAZY_CONFIG = "detr/detr_small_shapes.py"
    cfg.MODEL.LAZY_OVERRIDES = [o for o in tiny_overrides if o.startswith("model.")]
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN = ("tiny_shapes_train",)
    cfg.DATASETS.TEST = ("tiny_shapes_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.STEPS = ()
    cfg.TEST.EVAL_PERIOD = 0
    cfg.OUTPUT_DIR = str(tmp_path / "yacs")
    Path(cfg.OUTPUT_DIR).mkdir()

    class Trainer(DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return COCOEvaluator(dataset_name)

    trainer = Trainer(cfg)
    assert trainer.model.num_classes == 6
    assert trainer.model.input_format == cfg.INPUT.FORMAT == "BGR"
    before = trainer.model.decoder.query_embed.weight.clone()
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert not torch.equal(trainer.model.decoder.query_embed.weight, before)
    assert "AP" in trainer._last_eval_results["bbox"]
    assert (tmp_path / "yacs" / "model_final.pth").is_file()
