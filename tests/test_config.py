import ast
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from omegaconf import OmegaConf

from sap_detr.config import (
    ConfigError,
    add_sap_detr_config,
    list_configs,
    load_config,
    resolve_num_classes,
)
from sap_detr.modeling import DetectionTransformer

ROOT = Path(__file__).parents[1]
ALL_CONFIGS = sorted([*ROOT.glob("configs/**/*.py"), *ROOT.glob("projects/*/configs/**/*.py")])
SMALL = "detr/detr_small_shapes.py"


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(
        "model = dict(width=8, depths=[1, 2], num_classes=None, half='${.width}')\n"
        "train = dict(folder='???', amp=dict(enabled=False))\n"
    )
    return path


def test_config_by_path_and_by_name(config_file):
    assert load_config(str(config_file)).model.width == 8
    by_name = load_config(SMALL)
    by_path = load_config(str(ROOT / "configs" / SMALL))
    assert OmegaConf.to_container(by_name) == OmegaConf.to_container(by_path)


def test_unknown_config_says_what_there_is():
    with pytest.raises(FileNotFoundError, match=r"'detr/detr_smal' .*detr/detr_small_shapes\.py"):
        load_config("detr/detr_smal")


def test_overrides_change_values(config_file):
    cfg = load_config(
        str(config_file),
        [
            "model.width=16",
            "model.num_classes=3",
            "model.depths.1=7",
            "train.amp.enabled=true",
            "+train.note='a=b'",
            "+extra.new.key=[1,2]",
        ],
    )
    assert cfg.model.width == cfg.model.half == 16
    assert cfg.model.num_classes == 3
    assert cfg.model.depths == [1, 7]
    assert cfg.train.amp.enabled is True
    assert cfg.train.note == "a=b"
    assert cfg.extra.new.key == [1, 2]


def test_overrides_give_values_that_the_config_leaves_open(config_file):
    assert load_config(str(config_file), ["train.folder=here"]).train.folder == "here"


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.widht=1", r"no key 'widht' in model .*\['width'\].*\+model\.widht=1"),
        ("modle.width=1", r"no key 'modle' in the config .*'model'"),
        ("model.depths.2=1", r"no key '2' in model\.depths"),
        ("model.width.x=1", r"no key 'x' in model\.width"),
        ("train.amp.enable=true", r"no key 'enable' in train\.amp .*'enabled'"),
        ("model.width", r"'model\.width': write it as key\.path=value"),
        ("schedule.epochs=3", r"now train\.max_iter, or train\.epochs"),
        ("train.epochs=3", r"set train\.max_iter"),
        ("train.amp.0.x=1", r"write train\.amp\.enabled, one of \['enabled'\]"),
    ],
)
def test_overrides_that_make_no_sense_are_errors(config_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(str(config_file), [override])


@pytest.mark.parametrize("of_the_recipe", [None, 80])
def test_number_of_classes_is_taken_from_the_data(of_the_recipe):
    cfg = OmegaConf.create({"model": {"num_classes": of_the_recipe}})
    resolve_num_classes(cfg, ["cat", "dog"], "the training data")
    assert cfg.model.num_classes == 2
    resolve_num_classes(cfg, ["cat", "dog"], "the training data")
    assert cfg.model.num_classes == 2


@pytest.mark.parametrize(
    ("config", "position", "name"),
    [
        ("sap_detr/sap_detr_small_custom.py", "losses.0", "losses.class"),
        ("sap_detr/sap_detr_small_custom.py", "losses.1", "losses.objectness"),
        ("detr/detr_r50_500ep.py", "matcher.costs.2", "matcher.costs.giou"),
    ],
)
def test_position_of_a_loss_leads_to_its_name(config, position, name):
    with pytest.raises(ConfigError, match=rf"write model\.criterion\.{name}, one of"):
        load_config(config, [f"model.criterion.{position}.weight=2"])
    cfg = load_config(config, [f"model.criterion.{name}.weight=2"])
    assert OmegaConf.select(cfg, f"model.criterion.{name}").weight == 2


def test_number_of_classes_may_be_given_where_no_data_is():
    cfg = OmegaConf.create({"model": {"num_classes": 7}})
    resolve_num_classes(cfg, None, "")
    assert cfg.model.num_classes == 7


def test_numbers_of_classes_that_differ_are_both_named():
    cfg = OmegaConf.create({"model": {"num_classes": 7}})
    names = [f"thing{i}" for i in range(12)]
    with pytest.raises(
        ConfigError,
        match=r"num_classes is 7, but my data has 12 classes: thing0, .*thing9 and 2 more",
    ):
        resolve_num_classes(cfg, names, "my data")


def test_number_of_classes_that_nobody_knows_is_an_error():
    with pytest.raises(ConfigError, match=r"set model\.num_classes"):
        resolve_num_classes(OmegaConf.create({"model": {"num_classes": None}}), None, "")


def test_there_are_configs():
    assert ROOT / "configs" / SMALL in ALL_CONFIGS


PUBLISHED = [name for name in list_configs() if "small" not in name and "custom" not in name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_builds_as_it_stands(name):
    cfg = load_config(name)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert model.num_classes == 80
    whole = [cfg.train.max_iter, cfg.train.eval_period, cfg.train.checkpointer.period]
    assert all(isinstance(number, int) for number in whole)
    assert isinstance(cfg.train.device, str)


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_config_can_be_saved_and_loaded_again(path, tmp_path):
    tree = ast.parse(path.read_text())
    assert not any(isinstance(node, ast.Lambda) for node in ast.walk(tree))
    cfg = load_config(str(path))
    if "common" not in path.relative_to(ROOT).parts:
        assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= cfg.keys()
    once, twice = tmp_path / "once.yaml", tmp_path / "twice.yaml"
    LazyConfig.save(cfg, str(once))
    again = load_config(str(once))
    LazyConfig.save(again, str(twice))
    assert sorted(tmp_path.iterdir()) == [once, twice]  # what can't be saved becomes a .pkl
    assert once.read_text() == twice.read_text()
    assert again.keys() == cfg.keys()
    if "model" in cfg:
        models = []
        for config in (cfg, again):
            config.model.num_classes = 5
            with torch.device("meta"):
                models.append(instantiate(config.model))
        assert str(models[0]) == str(models[1])
        shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in models]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "text",
    [
        "train: !!python/object/apply:os.mkdir [{folder}]",
        "train: !!python/object/new:os.mkdir [{folder}]",
        "train: !!python/name:os.mkdir",
        "train: !!python/module:os",
        "- a list",
        "train: {{",
        "",
    ],
)
def test_loading_a_yaml_config_runs_nothing(text, tmp_path):
    path, folder = tmp_path / "config.yaml", tmp_path / "made"
    path.write_text(text.format(folder=folder))
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(str(path))
    assert not folder.exists()


def test_tuples_in_a_saved_config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("sizes: !!python/tuple [1, 2]\n")
    assert list(load_config(str(path)).sizes) == [1, 2]


@pytest.fixture
def yacs_config():
    """A yacs config that names a small model, with a data set of three classes."""
    cfg = get_cfg()
    add_sap_detr_config(cfg)
    cfg.MODEL.LAZY_CONFIG = SMALL
    cfg.MODEL.LAZY_OVERRIDES = [
        "model.encoder.num_layers=1",
        "model.decoder.num_queries=5",
    ]
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = ("yacs_train",)
    MetadataCatalog.get("yacs_train").thing_classes = ["circle", "square", "star"]
    yield cfg
    MetadataCatalog.remove("yacs_train")


@pytest.mark.parametrize("channel_order", ["BGR", "RGB"])
def test_yacs_config_builds_a_model(yacs_config, channel_order):
    yacs_config.INPUT.FORMAT = channel_order
    model = build_model(yacs_config).eval()
    assert isinstance(model, DetectionTransformer)
    assert model.num_classes == 3
    assert model.input_format == channel_order
    assert model.decoder.class_head.out_features == 4
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    assert len(model([{"image": image}])[0]["instances"]) == 5


def test_yacs_default_is_detectron2s_channel_order(yacs_config):
    assert build_model(yacs_config).input_format == "BGR"


def test_yacs_config_without_a_lazy_config_is_an_error(yacs_config):
    yacs_config.MODEL.LAZY_CONFIG = ""
    with pytest.raises(ConfigError, match=r"LAZY_CONFIG is empty.*add_sap_detr_config"):
        build_model(yacs_config)


def test_yacs_config_must_agree_with_its_data(yacs_config):
    yacs_config.MODEL.LAZY_OVERRIDES.append("model.num_classes=7")
    with pytest.raises(ConfigError, match=r"num_classes is 7, but .*yacs_train.* has 3 classes"):
        build_model(yacs_config)


def test_yacs_config_without_data_has_the_recipes_number_of_classes(yacs_config):
    yacs_config.DATASETS.TRAIN = ()
    assert build_model(yacs_config).num_classes == 80
    yacs_config.MODEL.LAZY_OVERRIDES.append("model.num_classes=null")
    with pytest.raises(ConfigError, match=r"set model\.num_classes"):
        build_model(yacs_config)
    yacs_config.MODEL.LAZY_OVERRIDES.append("model.num_classes=7")
    assert build_model(yacs_config).num_classes == 7
