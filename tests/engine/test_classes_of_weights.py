"""Weights and data that number the same classes differently: by name everywhere, or refused."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model as build_from_yacs

from sap_detr import model_zoo
from sap_detr.checkpoint import CheckpointError, SafeCheckpointer, save_checkpoint_file
from sap_detr.config import ConfigError, add_sap_detr_config, load_config, prepare_data
from sap_detr.data import register_folder
from sap_detr.engine import DetectionTrainer, build_model
from sap_detr.engine.main import evaluate

CONFIG = "detr/detr_small_shapes.py"


@pytest.fixture
def cfg(tiny_overrides, tmp_path):
    """The data as its makers number it, and weights of that order."""
    output = f"+dataloader.evaluator.output_dir={tmp_path}"
    cfg = load_config(CONFIG, [*tiny_overrides, output, "train.max_iter=1"])
    prepare_data(cfg)
    cfg.train.init_checkpoint = str(tmp_path / "weights.pth")
    content = {"model": build_model(cfg).state_dict(), "class_names": list(cfg.train.class_names)}
    save_checkpoint_file(content, cfg.train.init_checkpoint)
    return cfg


@pytest.fixture
def permuted(cfg, tmp_path):
    """The same data, whose files give the categories other ids, in another order."""
    folder = tmp_path / "permuted"
    shutil.copytree(cfg.dataset.folder, folder)
    for file in (folder / "train.json", folder / "val.json"):
        content = json.loads(file.read_text())
        ids = [category["id"] for category in content["categories"]]
        new = dict(zip(ids, [40, 10, 60, 20, 50, 30], strict=True))
        for category in content["categories"]:
            category["id"] = new[category["id"]]
        for annotation in content["annotations"]:
            annotation["category_id"] = new[annotation["category_id"]]
        file.write_text(json.dumps(content))
    other = cfg.copy()
    # Detectron2's catalogs keep a name for ever.
    name = f"permuted_{tmp_path.name}"
    other.dataset = {"_target_": register_folder, "name": name, "folder": str(folder)}
    prepare_data(other)
    assert sorted(other.train.class_names) == sorted(cfg.train.class_names)
    assert list(other.train.class_names) != list(cfg.train.class_names)
    return other


def evaluated(run, cfg):
    """The metrics, and what was found with the names of its classes."""
    results = run(cfg)
    content = json.loads((Path(cfg.dataset.folder) / "val.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = Path(cfg.dataloader.evaluator.output_dir) / "coco_instances_results.json"
    return results["bbox"], sorted(
        (d["image_id"], names[d["category_id"]], round(d["score"], 5), d["bbox"])
        for d in json.loads(found.read_text())
    )


def at_the_start_of_training(cfg):
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=False)
    return trainer.evaluate()


def in_python(cfg):
    """Detectron2's evaluator with a model of the zoo, in the order of the data set."""
    names = list(cfg.train.class_names)
    model = model_zoo.get(CONFIG, cfg.train.init_checkpoint, class_names=names)
    return evaluated_by_detectron2(cfg, model)


def by_our_checkpointer(cfg):
    """In place of Detectron2's own, of which it is a subclass."""
    model = build_model(cfg).eval()
    checkpointer = SafeCheckpointer(model, class_names=list(cfg.train.class_names))
    checkpointer.load(cfg.train.init_checkpoint)
    return evaluated_by_detectron2(cfg, model)


def evaluated_by_detectron2(cfg, model):
    data, folder = cfg.dataloader.test.dataset.names, cfg.dataloader.evaluator.output_dir
    evaluator = COCOEvaluator(data, tasks=["bbox"], output_dir=folder)
    loader = DetectionTrainer.build_test_loader(cfg, data)
    return inference_on_dataset(model, loader, evaluator)


@pytest.mark.parametrize(
    "run", [evaluate, at_the_start_of_training, in_python, by_our_checkpointer]
)
def test_results_are_the_same(run, cfg, permuted, monkeypatch):
    monkeypatch.setattr(model_zoo, "get_config", lambda *_: cfg.copy())
    (metrics, found), (other_metrics, other_found) = (evaluated(run, c) for c in (cfg, permuted))
    assert len({name for _, name, *_ in found}) > 1
    assert other_found == found
    assert {k: repr(v) for k, v in other_metrics.items()} == {
        k: repr(v) for k, v in metrics.items()
    }


def test_detectron2s_own_checkpointer_goes_by_the_order_and_gives_the_names_back(cfg, permuted):
    model = build_model(permuted)
    rest = DetectionCheckpointer(model).load(cfg.train.init_checkpoint)
    assert rest["class_names"] == list(cfg.train.class_names) != list(permuted.train.class_names)


def test_resuming_is_refused(cfg, permuted):
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    with pytest.raises(CheckpointError, match="class names or their order differ"):
        DetectionTrainer(permuted).resume_or_load(resume=True)


def test_a_yacs_config_is_refused(cfg, permuted, tiny_overrides):
    yacs = get_cfg()
    add_sap_detr_config(yacs)
    yacs.MODEL.LAZY_CONFIG = CONFIG
    yacs.MODEL.LAZY_OVERRIDES = [o for o in tiny_overrides if o.startswith("model.")]
    yacs.MODEL.DEVICE = "cpu"
    yacs.MODEL.WEIGHTS = cfg.train.init_checkpoint
    yacs.DATASETS.TEST = ()
    yacs.DATASETS.TRAIN = (cfg.dataloader.train.dataset.names,)
    build_from_yacs(yacs)
    yacs.DATASETS.TRAIN = (permuted.dataloader.train.dataset.names,)
    with pytest.raises(ConfigError, match=r"MODEL.WEIGHTS=.*weights.pth has the classes .*by name"):
        build_from_yacs(yacs)
