"""Evaluation split over processes gives the results of one."""

import json
import math
from pathlib import Path

import jobs
import pytest

from sap_detr.engine.main import main

SCRIPT = Path(jobs.__file__).parent / "evaluate_detections.py"
SIZES = (1, 2, 7)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Runs the evaluation in so many processes; returns reports by the number of images."""
    folder = tmp_path_factory.mktemp("evaluation")

    def run(world_size, *changes):
        arguments = [folder, *SIZES, "--", "dataset.num_train=1", *changes]
        ranks = jobs.run_ranks(folder, arguments, world_size, SCRIPT)
        statuses = jobs.finish_all(ranks)
        assert statuses == [0] * world_size, ranks[0].output[-3000:]
        files = {size: folder / f"{size}_of_{world_size}.json" for size in SIZES}
        return {size: json.loads(file.read_text()) for size, file in files.items()}

    return run


def test_any_number_of_processes_gives_the_same_metrics(reports):
    alone = reports(1)
    for world_size in (2, 3):
        split = reports(world_size)
        for size in SIZES:
            shares = [set(share) for share in split[size]["seen"]]
            assert sum(map(len, split[size]["seen"])) == len(set.union(*shares)) == size
            assert set.union(*shares) == set(alone[size]["seen"][0])
            # With fewer images than processes, some have none.
            assert any(not share for share in shares) == (size < world_size)
            expected, found = alone[size]["results"]["bbox"], split[size]["results"]["bbox"]
            assert expected.keys() == found.keys()
            for metric, value in expected.items():
                both_undefined = math.isnan(value) and math.isnan(found[metric])
                assert both_undefined or value == found[metric], (world_size, size, metric)
    assert 10 < alone[7]["results"]["bbox"]["AP"] < 90


def detections(folder):
    """What was found: by image, scores with classes and boxes."""
    found = json.loads((folder / "coco_instances_results.json").read_text())
    return sorted((d["image_id"], d["score"], d["category_id"], d["bbox"]) for d in found)


def test_all_processes_evaluate_the_average(tiny_overrides, tmp_path):
    common = [*jobs.CONFIG, *tiny_overrides, "train.ema.enabled=true", "train.ema.decay=0.9"]
    common += ["train.max_iter=3", "train.eval_period=0"]
    split, alone = tmp_path / "split", tmp_path / "alone"
    ranks = jobs.run_ranks(tmp_path, [*common, f"+dataloader.evaluator.output_dir={split}"])
    assert jobs.finish_all(ranks) == [0, 0]

    weights = f"train.init_checkpoint={tmp_path / 'run' / 'model_final.pth'}"
    changes = [weights, f"train.output_dir={alone}", f"+dataloader.evaluator.output_dir={alone}"]
    assert main([*common[:2], "--eval-only", *common[2:], *changes]) == 0
    assert len({image for image, *_ in detections(alone)}) == 5
    assert detections(split) == detections(alone)
