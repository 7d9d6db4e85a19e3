"""Our recipes are Detectron2's LazyConfigs: its own parts train, resume, evaluate and analyse them.

The steps are those of its tutorial and of its tools/lazyconfig_train_net.py and analyze_model.py,
written down in tests/helpers/lazyconfig_tutorial.py; the data is a tiny COCO in its place.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from sap_detr.config import get_config_file

pytestmark = pytest.mark.slow

STEPS = Path(__file__).parents[1] / "helpers" / "lazyconfig_tutorial.py"
# One of every kind of model.
RECIPES = {
    "detr_r50_500ep": "detr/detr_r50_500ep.py",
    "sap_detr_dc5_r50_50ep": "sap_detr/sap_detr_dc5_r50_50ep.py",
    "sam_detr_ms_r50_smca_12ep": "sam_detr/sam_detr_ms_r50_smca_12ep.py",
}
SMALLER = [
    "dataloader.train.mapper.augmentations.short_sides=[48]",
    "dataloader.train.mapper.augmentations_with_crop=null",
    "dataloader.test.mapper.augmentations.short_side=48",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.encoder.num_layers=1",
    "model.encoder.ffn_dim=64",
    "model.decoder.ffn_dim=64",
    "train.device=cpu",
    "train.log_period=1",
    "train.max_iter=2",
]


def make_coco(folder, images_of_split):
    """Writes a data set of noise with COCO's folders and all of its categories."""
    categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    random = np.random.RandomState(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in images_of_split.items():
        (folder / split).mkdir()
        images, annotations = [], []
        for index in range(count):
            file = f"{index:012d}.jpg"
            pixels = random.randint(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / file)
            images.append({"id": index + 1, "file_name": file, "height": 60, "width": 80})
            for x in (5, 35):
                box = [x, 5, 20, 30]
                category = categories[(index + x) % len(categories)]["id"]
                annotation = {"id": len(annotations) + 1, "image_id": index + 1, "bbox": box}
                annotations.append(
                    {**annotation, "category_id": category, "area": 600, "iscrowd": 0}
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lazyconfig")
    make_coco(folder / "sets" / "coco", {"train2017": 4, "val2017": 2})
    files = [get_config_file(name) for name in RECIPES.values()]
    done = subprocess.run(
        [sys.executable, str(STEPS), str(folder), *files, "--", *SMALLER],
        env={**os.environ, "DETECTRON2_DATASETS": str(folder / "sets")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_detectron2_trains_resumes_and_evaluates(name, found):
    run = found[name]
    assert run["starts"] == [0, 2]
    assert set(run["rates"]) == {"0", "1", "2"}
    # A thousandth of the whole training is warm-up; the rate drops after 40 of 50 epochs, which no
    # whole iteration of three is behind.
    warm_up = 0.001 if name.startswith("sap") else 1.0
    assert list(run["rates"].values()) == pytest.approx([1e-4 * warm_up, 1e-4, 1e-4])
    results = run["results"]
    assert {"AP", "AP50", "AP-person", "AP-toothbrush"} <= set(results)
    assert math.isfinite(results["AP"])


@pytest.mark.parametrize("name", RECIPES)
def test_detectron2_analyses(name, found):
    run = found[name]
    assert run["flops"] > 1e8
    assert run["activations"] > 1
    assert run["structure"].startswith("DetectionTransformer(")
    assert run["parameters"] > 2e7
