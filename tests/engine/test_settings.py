"""Values that make no sense are told in one line, before a run writes anything."""

from types import SimpleNamespace

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.utils.events import EventStorage
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import nn

from sap_detr.checkpoint import SafeCheckpointer
from sap_detr.config import ConfigError, list_configs, load_config
from sap_detr.data import build_jitter_augmentations
from sap_detr.engine import BestCheckpoint
from sap_detr.engine import main as command
from sap_detr.engine.settings import RULES, check_best_metric, check_settings

SMALL = "detr/detr_small_shapes.py"


@pytest.mark.parametrize("name", list_configs())
def test_every_recipe_makes_sense(name):
    check_settings(load_config(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.max_iter=0", "train.max_iter=0: a whole number from 1 on or null"),
        ("train.seed=-1", "train.seed=-1: a whole number from 0 on"),
        ("train.ema.decay=2", r"train.ema.decay=2: a number from 0 to 1"),
        ("train.clip_grad_norm=-1", "train.clip_grad_norm=-1: a number above 0"),
        ("train.amp.dtype=int8", "train.amp.dtype=int8: one of bfloat16, float16"),
        ("train.best_metric=AP50", "train.best_metric=AP50: .*bbox/AP50"),
        ("~train.seed", "the config has no train.seed: a whole number from 0 on is expected"),
        ("train.weights=ema", "train.weights=ema: one of scored, raw"),
        ("train.reinitialise=[1]", "train.reinitialise=.1.: a list of patterns"),
        ("train.output_dir=", "train.output_dir=: text"),
        ("+train.hooks=2", "train.hooks=2: a list or null is expected"),
        ("train.eval_period=2.5", "train.eval_period=2.5: a whole number"),
        ("train.process_group_timeout=null", "process_group_timeout=null: a number above 0"),
        ("dataloader.train.total_batch_size=0", "total_batch_size=0: a whole number from 1"),
        ("dataloader.train.max_bad_share=7", "max_bad_share=7: a number from 0 to 1"),
        ("optimizer.lr=nan", "optimizer.lr=nan: a number above 0"),
        ("train.non_finite.policy=ignore", "policy must be 'skip' or 'stop', got 'ignore'"),
        ("model.neck.embed_dim=7", "model can't be built .*embed_dim=7 must be a multiple of 4"),
        ("model.decoder.num_queries=-1", "model can't be built"),
        (
            "optimizer._target_=torch.optim.SGD",
            "optimizer can't be built .*, add ~optimizer.betas ~optimizer.eps$",
        ),
        ("dataloader.train.mapper.reader=foo", "train.mapper can't be built .*'foo'"),
        ("dataloader.test.mapper.augmentations.short_side=0", "test.mapper .*positive, got 0"),
        ("lr_multiplier.scheduler.milestones=[9000]", "lr_multiplier can't be built .*9000"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(load_config(SMALL, [change]))


def test_another_optimizer_by_leaving_out_what_it_does_not_take():
    changes = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps"]
    check_settings(load_config(SMALL, changes))


METRICS = "bbox/AP, bbox/AP50, bbox/AP75, bbox/APs, bbox/APm, bbox/APl"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], None),
        (["train.best_metric=bbox/AP-star"], None),
        (["train.best_metric=bbox/Foo"], f"best_metric=bbox/Foo: .* One of {METRICS}, or AP of a"),
        (["train.best_metric=segm/AP"], "best_metric=segm/AP: .*bbox/AP50"),
        (["dataloader.test.dataset.names=[a,b]"], "=bbox/AP: .* One of a/bbox/AP, .*, b/bbox/APl"),
        (["dataloader.test.dataset.names=[a,b]", "train.best_metric=b/bbox/AP50"], None),
        # Nothing is evaluated, or by something of which nothing is known.
        (["dataloader.test.dataset.names=[]", "train.best_metric=bbox/Foo"], None),
        (["dataloader.evaluator.tasks=[keypoints]", "train.best_metric=keypoints/AP"], None),
        (["dataloader.evaluator._target_=builtins.dict", "train.best_metric=mine/F1"], None),
    ],
)
def test_the_best_metric_is_one_that_evaluations_give(changes, expected):
    cfg = load_config(SMALL, changes)
    cfg.train.class_names = ["ellipse", "star"]
    if expected is None:
        check_best_metric(cfg)
        return
    with pytest.raises(ConfigError, match=expected):
        check_best_metric(cfg)


def test_an_evaluators_tasks_are_names():
    with pytest.raises(ConfigError, match=r"dataloader.evaluator.tasks=1: names such as \[bbox\]"):
        check_best_metric(load_config(SMALL, ["+dataloader.evaluator.tasks=1"]))


def test_a_best_metric_that_is_missing_is_told_at_the_first_evaluation(caplog):
    hook = BestCheckpoint(SafeCheckpointer(nn.Linear(1, 1)), "mine/F1")
    hook.trainer = SimpleNamespace()
    with EventStorage() as hook.trainer.storage:
        hook.trainer.storage.put_scalar("total_loss", 1.0)
        hook.after_step()
        assert not caplog.records
        hook.trainer.storage.put_scalars(**{"mine/AP": 1.0, "mine/AR": 2.0})
        for _ in range(2):
            hook.after_step()
    (record,) = caplog.records
    assert "no mine/F1" in record.message
    assert "one of mine/AP, mine/AR" in record.message


class NeedsNumbers(nn.Module):
    """A model of somebody else's whose constructor looks at numbers."""

    def __init__(self):
        super().__init__()
        self.scale = float(nn.Linear(2, 2).weight.sum())


def test_models_of_others_are_not_built_twice():
    cfg = load_config(SMALL)
    cfg.model = L(NeedsNumbers)()
    check_settings(cfg)


def leaves(node, prefix=""):
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{name}.")
        else:
            yield name


def with_jitter(cfg):
    """Keys of what a user may put in place of the augmentation of the recipes."""
    jitter = L(build_jitter_augmentations)(image_size=[64, 64], scale_range=[0.1, 2.0])
    cfg.dataloader.train.mapper.augmentations = jitter
    return cfg


# Together they have nearly all keys of all recipes: formats of data, a backbone by its name in
# timm, denoising, several levels.
CONFIGS = {
    "shapes": load_config(SMALL),
    "folder": with_jitter(load_config("sap_dino_detr/sap_dino_detr_small_custom.py")),
    "timm": load_config("dino/dino_lite0_custom.py"),
}
RULE_KEYS = {key.removesuffix("?") for key in RULES}
KEYS = [
    (name, key)
    for name, config in CONFIGS.items()
    for key in sorted({*RULE_KEYS, *leaves(config)} - {"train.epochs"})
]
ODD_TEXT = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]))
VALUES = st.one_of(
    st.integers(-3, 200).map(str),
    st.floats(-2, 10).map(str),
    st.sampled_from(["nan", "inf", "1e400", "null", "true", "[]", "[0]", "{}", "''", "${x}", "~"]),
    st.sampled_from(["/data/My Drive (1)", "a=b", "[1", "{}#'x", "é/ü", "~/x", "-1", "--help"]),
    ODD_TEXT,
)


@pytest.fixture
def config_files(tiny_config, tmp_path):
    """The same as yaml, which is read much faster."""
    files = {name: str(tmp_path / f"{name}.yaml") for name in CONFIGS}
    for name, config in CONFIGS.items():
        LazyConfig.save(tiny_config if name == "shapes" else config, files[name])
    return files


@pytest.mark.slow
@settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    options=st.sampled_from([[], ["--eval-only"], ["--resume"]]),
    prefix=st.sampled_from(["", "", "+", "~"]),
    where=st.one_of(st.sampled_from(KEYS), st.tuples(st.sampled_from([*CONFIGS]), ODD_TEXT)),
    value=VALUES,
)
def test_any_change_of_any_key_is_taken_or_refused_in_one_line(
    options, prefix, where, value, config_files, tmp_path, capfd, monkeypatch
):
    """The command line is read as a user's; only the run itself is left out."""
    monkeypatch.setattr(command, "launch", lambda *_: 0)
    monkeypatch.chdir(tmp_path)
    name, key = where
    change = f"~{key}" if prefix == "~" else f"{prefix}{key}={value}"
    try:
        status = command.main(["--config-file", config_files[name], *options, change])
    except SystemExit as stop:
        # Of argparse, for what looks like an option.
        status = stop.code
        assert change.startswith("-")
    err = capfd.readouterr().err
    assert status in (0, 2), (change, err)
    if status == 2 and not change.startswith("-"):
        starts = [line.startswith("error: ") for line in err.strip().splitlines()]
        assert starts[0], (change, err)
        assert sum(starts) == 1, (change, err)
