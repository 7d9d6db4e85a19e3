"""Whether the values of a config make sense, found out before a run writes anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.evaluation import COCOEvaluator
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..checkpoint import RAW, SCORED
from ..config import COCO_NUM_CLASSES, ConfigError, as_list, build_part, find_target
from ..modeling import DetectionTransformer
from .non_finite import NonFinitePolicy
from .step import AMP_DTYPES


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
        allowed: the same in words.
        holds: whether a value is allowed.
        optional: whether it may be null.
    """

    allowed: str
    holds: Callable[[Any], bool]
    optional: bool = False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_whole(value) or isinstance(value, float)) and math.isfinite(value)


def whole(least: int, optional: bool = False) -> Rule:
    """Return the rule for a whole number from ``least`` on."""
    return Rule(
        f"a whole number from {least} on", lambda v: _is_whole(v) and v >= least, optional=optional
    )


def above(limit: float, optional: bool = False) -> Rule:
    """Return the rule for a number above a limit."""
    return Rule(f"a number above {limit}", lambda v: _is_number(v) and v > limit, optional=optional)


def between(low: float, high: float) -> Rule:
    """Return the rule for a number of a closed interval."""
    return Rule(f"a number from {low} to {high}", lambda v: _is_number(v) and low <= v <= high)


def one_of(*values: str) -> Rule:
    """Return the rule for one of several words."""
    return Rule(f"one of {', '.join(values)}", lambda v: v in values)


YES_OR_NO = Rule("true or false", lambda v: isinstance(v, bool))
TEXT = Rule("text", lambda v: isinstance(v, str) and bool(v))
METRIC = Rule(
    "a task and a metric, such as bbox/AP or bbox/AP50",
    lambda v: isinstance(v, str) and "/" in v.strip("/"),
)
NAMES = Rule(
    "the name of a data set, or a list of names",
    lambda v: (
        (isinstance(v, str) and bool(v))
        or (isinstance(v, list | ListConfig) and all(isinstance(name, str) for name in v))
    ),
)

PARTS = Rule("a list", lambda v: isinstance(v, list | ListConfig), optional=True)

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

# A config of one's own or of an earlier version is whole without the keys that have a "?".
RULES: dict[str, Rule] = {
    "train.output_dir": TEXT,
    "train.init_checkpoint": Rule("a file or nothing", lambda v: isinstance(v, str), optional=True),
    "train.weights?": one_of(SCORED, RAW),
    "train.reinitialise?": Rule(
        "a list of patterns of names, such as [decoder.query_embed.*]",
        lambda v: isinstance(v, list | ListConfig) and all(isinstance(name, str) for name in v),
    ),
    "train.max_iter": whole(1, optional=True),
    "train.epochs?": above(0, optional=True),
    "train.seed": whole(0),
    "train.cudnn_benchmark": YES_OR_NO,
    "train.max_images_per_gpu": whole(1, optional=True),
    "train.clip_grad_norm": above(0, optional=True),
    "train.amp.enabled": YES_OR_NO,
    "train.amp.dtype": one_of(*AMP_DTYPES),
    "train.compile.enabled": YES_OR_NO,
    "train.compile.max_graphs?": whole(1),
    "train.activation_checkpointing": YES_OR_NO,
    "train.ema.enabled": YES_OR_NO,
    "train.ema.decay": between(0, 1),
    "train.process_group_timeout": above(0),
    "train.checkpointer.period": whole(1, optional=True),
    "train.checkpointer.max_to_keep": whole(1, optional=True),
    "train.eval_period": whole(0, optional=True),
    "train.best_metric": METRIC,
    "train.early_stopping.patience?": whole(1, optional=True),
    "train.early_stopping.min_delta?": between(0, math.inf),
    "train.log_period": whole(1),
    "train.progress_bar": replace(YES_OR_NO, optional=True),
    "train.check_data": YES_OR_NO,
    "train.hooks?": PARTS,
    "train.writers?": PARTS,
    "dataloader.train.total_batch_size": whole(1),
    "dataloader.train.num_workers?": whole(0),
    "dataloader.train.max_bad_share?": between(0, 1),
    "dataloader.train.dataset.names": NAMES,
    "dataloader.test.num_workers?": whole(0),
    "dataloader.test.dataset.names": NAMES,
    "optimizer.lr?": above(0),
    "optimizer.weight_decay?": between(0, math.inf),
    "lr_multiplier.warmup_length?": between(0, 1),
    "model.num_classes?": whole(1, optional=True),
}


def check_settings(cfg: DictConfig) -> None:
    """Find values that make no sense, and parts that can't be built from theirs.

    Args:
        cfg: with whatever of :data:`RULES` it has.

    Raises:
        ConfigError: it names the key, its value and what is allowed.
    """
    missing = object()
    for name, rule in RULES.items():
        key = name.removesuffix("?")
        value = OmegaConf.select(cfg, key, default=missing)
        if value is missing and key == name:
            raise ConfigError(f"the config has no {key}: {rule.allowed} is expected")
        if value is missing or (value is None and rule.optional):
            continue
        if not rule.holds(value):
            null = " or null" if rule.optional else ""
            shown = "null" if value is None else value
            raise ConfigError(f"{key}={shown}: {rule.allowed}{null} is expected")
    NonFinitePolicy(**cfg.train.non_finite)
    for key in ("hooks", "writers"):
        for index, described in enumerate(cfg.train.get(key) or ()):
            find_target(f"train.{key}[{index}]", described)
    _try_to_build(cfg)


def check_best_metric(cfg: DictConfig) -> None:
    """Find out whether evaluations will give ``train.best_metric``.

    Args:
        cfg: after :func:`~sap_detr.config.prepare_data`. Nothing is known of evaluators and tasks
            other than Detectron2's of boxes and masks; the first evaluation tells of those.

    Raises:
        ConfigError: it lists the metrics that there are.
    """
    evaluator, sets = cfg.dataloader.evaluator, as_list(cfg.dataloader.test.dataset.names)
    target = find_target("dataloader.evaluator", evaluator)
    tasks = evaluator.get("tasks")
    if not (tasks is None or NAMES.holds(tasks)):
        raise ConfigError(f"dataloader.evaluator.tasks={tasks}: names such as [bbox] are expected")
    tasks = as_list(tasks or ())
    if not (sets and tasks and isinstance(target, type) and issubclass(target, COCOEvaluator)):
        return
    if not set(tasks) <= {"bbox", "segm"}:
        return
    prefixes = [""] if len(sets) == 1 else [f"{name}/" for name in sets]
    classes = cfg.train.class_names or ()
    known = [f"{p}{task}/{metric}" for p in prefixes for task in tasks for metric in COCO_METRICS]
    per_class = [f"{p}{t}/AP-{name}" for p in prefixes for t in tasks for name in classes]
    if cfg.train.best_metric not in [*known, *per_class]:
        more = ", or AP of a class such as " + per_class[0] if per_class else ""
        raise ConfigError(
            f"train.best_metric={cfg.train.best_metric}: evaluations give no such metric. One of "
            f"{', '.join(known)}{more} is expected"
        )


def check_early_stopping(cfg: DictConfig) -> None:
    """Find out whether there will be evaluations for ``train.early_stopping`` to go by.

    Raises:
        ConfigError: if there is none before the end.
    """
    patience = OmegaConf.select(cfg, "train.early_stopping.patience")
    if patience is None:
        return
    what = f"train.early_stopping.patience={patience}: "
    if not as_list(cfg.dataloader.test.dataset.names):
        raise ConfigError(
            f"{what}there is no split to evaluate. Name one, such as dataset.val=test, or take a "
            "part of the images with dataset.val_share=0.2"
        )
    if cfg.train.eval_period == 0:
        raise ConfigError(f"{what}train.eval_period=0 evaluates at the end only; set a period")


def _try_to_build(cfg: DictConfig) -> None:
    """Build what needs no data, to throw it away."""
    target = find_target("model", cfg.model)
    # On the meta device it costs nothing, but other models may want to see their numbers.
    if isinstance(target, type) and issubclass(target, DetectionTransformer):
        model = cfg.model.copy()
        # What the data will say.
        if model.num_classes is None:
            model.num_classes = COCO_NUM_CLASSES
        with torch.device("meta"):
            build_part("model", model)
    optimizer = cfg.optimizer.copy()
    optimizer.params = [torch.zeros(1, requires_grad=True)]
    build_part("optimizer", optimizer)
    build_part("lr_multiplier", cfg.lr_multiplier)
    for split in ("train", "test"):
        build_part(f"dataloader.{split}.mapper", cfg.dataloader[split].mapper)
