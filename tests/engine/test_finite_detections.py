"""Detections that are not finite end an evaluation, and never make an AP."""

import json

import jobs
import pytest
import torch
from detectron2.evaluation import COCOEvaluator, inference_on_dataset

from sap_detr.checkpoint import save_checkpoint_file
from sap_detr.config import load_config, prepare_data
from sap_detr.engine import DetectionTrainer, NonFiniteDetectionsError, setup_run
from sap_detr.engine.setup import build_model
from sap_detr.modeling import DetectionTransformer


@pytest.fixture
def cfg(tiny_overrides):
    cfg = load_config("detr/detr_small_shapes.py", tiny_overrides)
    prepare_data(cfg)
    return cfg


@pytest.fixture
def model(cfg):
    return build_model(cfg)


def spoil(model):
    """Make weights too large, but finite, so that what comes of them is not."""
    with torch.no_grad():
        model.neck.projections[0].weight.fill_(3e38)


@pytest.fixture
def one_bad_image(monkeypatch):
    """Makes the boxes of the image with id 3 NaN."""
    predict = DetectionTransformer.forward

    def forward(self, batched_inputs, *args):
        outputs = predict(self, batched_inputs, *args)
        if not self.training:
            for inputs, output in zip(batched_inputs, outputs, strict=True):
                if inputs["image_id"] == 3:
                    output["instances"].pred_boxes.tensor[1, 2] = torch.nan
        return outputs

    monkeypatch.setattr(DetectionTransformer, "forward", forward)


def test_one_bad_image_of_many_is_named(cfg, model, one_bad_image):
    with pytest.raises(NonFiniteDetectionsError, match=r"1 of 8 detections in image 3 \(.*\.jpg\)"):
        DetectionTrainer.test(cfg, model)


@pytest.mark.parametrize("processes", [1, 2])
def test_weights_that_overflow_are_told_in_one_line(model, processes, tiny_overrides, tmp_path):
    spoil(model)
    save_checkpoint_file({"model": model.state_dict()}, tmp_path / "diverged.pth")
    arguments = [*jobs.CONFIG, "--eval-only", *tiny_overrides]
    ranks = jobs.run_ranks(
        tmp_path, [*arguments, f"train.init_checkpoint={tmp_path}/diverged.pth"], processes
    )
    assert jobs.finish_all(ranks) == [2] * processes
    output = "".join(rank.output for rank in ranks)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert "8 of 8 detections in image " in errors[0]
    assert "Traceback" not in output


def test_training_ends_there_without_a_best_checkpoint(tiny_overrides, tmp_path, one_bad_image):
    cfg = load_config("detr/detr_small_shapes.py", [*tiny_overrides, "train.max_iter=2"])
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    trainer.resume_or_load(resume=False)
    with pytest.raises(NonFiniteDetectionsError, match="image 3"):
        trainer.train()
    assert (tmp_path / "run" / "model_final.pth").is_file()
    assert not (tmp_path / "run" / "model_best.pth").exists()


def test_in_detectron2_they_are_no_finds(cfg, model, tmp_path):
    """Detectron2's own evaluator, by which boxes of NaN match every object."""
    spoil(model)
    name = cfg.dataloader.test.dataset.names
    loader = DetectionTrainer.build_test_loader(cfg, name)
    evaluator = COCOEvaluator(name, tasks=["bbox"], output_dir=str(tmp_path))
    results = inference_on_dataset(model, loader, evaluator)
    assert results["bbox"]["AP"] == 0
    found = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {(d["score"], *d["bbox"]) for d in found} == {(-torch.inf, 0, 0, 0, 0)}
