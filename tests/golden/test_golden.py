"""Compares our models with numbers of the published codes, in float64.

``pytest tests/golden`` takes the cases beside this file, ``--golden-dir DIR`` those of another
folder. What a case holds is described in ``golden_cases.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import golden_cases
import numpy as np
import pytest
import torch
from builders import CONFIGS, build
from detectron2.structures import Boxes, Instances

from sap_detr.checkpoint import NAME_MAPS
from sap_detr.checkpoint.class_rows import COCO_CATEGORY_IDS
from sap_detr.modeling import Predictions, layer_keys, object_normalizer
from sap_detr.modeling.criterion import query_sets

# Published names of losses that are called otherwise here, and of what is not trained on here.
LOSS_NAMES = {"loss_class": "loss_ce", "loss_objectness": "loss_ce_obj"}
# Where the published codes put the name of a further set of queries: after that of the loss.
SUFFIXES = {"": "", "proposal_": "_interm", "dn_": "_dn"}


def pytest_generate_tests(metafunc):
    folder: Path = metafunc.config.getoption("--golden-dir")
    names = sorted(path.stem for path in folder.glob("*.json"))
    if not names:
        raise pytest.UsageError(f"no golden cases (NAME.json) in {folder}")
    metafunc.parametrize("run", names, indirect=True, scope="module")


@dataclass
class Run:
    """A case and what our model made of it."""

    case: dict
    model: torch.nn.Module
    inputs: list[dict]
    predictions: Predictions

    @property
    def expected(self) -> dict[str, np.ndarray]:
        return self.case["outputs"]

    def check(self, ours: torch.Tensor | float, theirs: np.ndarray, what: str) -> None:
        ours = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours)
        assert ours.shape == theirs.shape, what
        error = np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))
        assert error.max(initial=0) <= self.case["tolerance"], f"{what}: off by {error.max():.2e}"


def make_inputs(case: dict) -> list[dict]:
    inputs = []
    for index, (height, width) in enumerate(case["image_sizes"]):
        entry = {"image": torch.as_tensor(golden_cases.image(case, index))}
        if case["num_targets"] is not None:
            boxes, labels = golden_cases.targets(case, index)
            # Detectron2's Boxes would make them float32.
            pixels = Boxes(torch.zeros(len(boxes), 4))
            pixels.tensor = torch.as_tensor(boxes)
            entry["instances"] = Instances(
                (height, width), gt_boxes=pixels, gt_classes=torch.as_tensor(labels)
            )
        inputs.append(entry)
    return inputs


def run_model(case: dict, num_classes: int) -> Run:
    weights = golden_cases.weights(case)
    model = build(case, weights, num_classes)
    inputs = make_inputs(case)
    images = model.preprocess(inputs)
    denoising = None
    if case["num_targets"] is not None and getattr(model, "denoiser", None) is not None:
        denoising = model.denoiser(model.collect_targets(inputs), num_classes)
    predictions = model.predict(images.tensor, images.image_sizes, denoising=denoising)
    return Run(case, model, inputs, predictions)


@pytest.fixture(scope="module")
def run(request) -> Run:
    """One forward pass, shared by the tests of a case; 91 classes through the 80-row selection."""
    case = golden_cases.load(request.param, request.config.getoption("--golden-dir"))
    if case["method"] not in CONFIGS:
        pytest.fail(f"{request.param}: there is no method {case['method']!r} here")
    # Selection by rows would change which tokens DINO's first stage selects.
    select = case["num_classes"] == 91 and case["method"] != "dino"
    return run_model(case, 80 if select else case["num_classes"])


def test_predictions(run: Run):
    columns = slice(None)
    if run.model.num_classes != run.case["num_classes"]:
        no_object = [91] if NAME_MAPS[run.case["method"]].no_object_row else []
        columns = [*COCO_CATEGORY_IDS, *no_object]
    expected, predictions = run.expected, run.predictions
    run.check(predictions.boxes, expected["boxes"], "boxes")
    run.check(
        predictions.logits[:, :, :40], expected["logits_first40"][..., columns], "logits_first40"
    )
    run.check(
        predictions.logits[-1], expected["logits_last_layer"][..., columns], "logits_last_layer"
    )
    for name in ("points", "objectness"):
        if name in expected:
            run.check(getattr(predictions, name), expected[name], name)


def test_first_stage_and_denoising(run: Run):
    expected, predictions = run.expected, run.predictions
    compared = {key for key in expected if re.match("dn:known|dn:groups|dn:slots", key)}
    for prefix, found in (("interm", predictions.proposals), ("dn", predictions.denoising)):
        if f"{prefix}:boxes" not in expected:
            continue
        layers = slice(None) if prefix == "dn" else 0
        run.check(found.boxes[layers], expected[f"{prefix}:boxes"], f"{prefix}:boxes")
        logits = found.logits[layers]
        run.check(
            logits[..., :40, :], expected[f"{prefix}:logits_first40"], f"{prefix}:logits_first40"
        )
        compared |= {f"{prefix}:boxes", f"{prefix}:logits_first40"}
    if "interm:index" in expected:
        assert np.array_equal(predictions.proposals.tokens.numpy(), expected["interm:index"])
        run.check(predictions.proposals.logits[0].amax(-1), expected["interm:score"], "score")
        compared |= {"interm:index", "interm:score"}
    assert {key for key in expected if re.match("dn:|interm:", key)} == compared


def test_detections(run: Run):
    if run.model.num_classes != run.case["num_classes"]:
        assert {"det_scores", "det_labels", "det_boxes"} <= run.expected.keys()
        pytest.skip("the 20 best of 91 classes are not the 20 best of 80")
    sizes = run.case["image_sizes"]
    found = run.model.postprocessor(run.predictions, [tuple(size) for size in sizes])[0]
    best = found.scores.argsort(descending=True, stable=True)[: len(run.expected["det_scores"])]
    run.check(found.scores[best], run.expected["det_scores"], "det_scores")
    run.check(found.pred_boxes.tensor[best], run.expected["det_boxes"], "det_boxes")
    assert found.pred_classes[best].tolist() == run.expected["det_labels"].tolist()


def test_losses_matches_and_gradients(run: Run):
    if run.case["num_targets"] is None:
        assert not any(key.startswith(("loss", "match", "grad")) for key in run.expected)
        pytest.skip("a case without objects has no losses")
    if run.model.num_classes != run.case["num_classes"]:
        # Labels may be ids that COCO does not use, so losses need all 91 classes.
        run = run_model(run.case, run.case["num_classes"])
    criterion, predictions = run.model.criterion, run.predictions
    targets = run.model.collect_targets(run.inputs)
    found = criterion.match(predictions, targets)
    compared = set()

    for layer in range(len(predictions.logits)):
        for image, pair in enumerate(found[""].per_image(layer)):
            key = f"match:{layer}:{image}"
            assert np.array_equal(torch.stack(pair).numpy(), run.expected[key]), key
            compared.add(key)
    if predictions.proposals is not None:
        for image, pair in enumerate(found["proposal_"].per_image(0)):
            key = f"match:interm:{image}"
            assert np.array_equal(torch.stack(pair).numpy(), run.expected[key]), key
            compared.add(key)

    weights = run.case["loss_weights"]
    normalizer = object_normalizer(sum(targets.counts), like=predictions.boxes)
    total = sum(criterion(predictions, targets, normalizer).values())
    losses = {f"loss_{name}": term for name, term in criterion.losses.items()}
    terms = [
        (prefix, scored, key, term)
        for prefix, scored in query_sets(predictions).items()
        for key, term in (losses | criterion.metrics).items()
    ]
    for prefix, scored, key, term in terms:
        published = LOSS_NAMES.get(key, key)
        values = term(scored, targets, found[prefix], normalizer * scored.repeats)
        for name, value in zip(
            layer_keys(published + SUFFIXES[prefix], len(values)), values, strict=True
        ):
            if f"loss:{name}" in run.expected:
                run.check(value, run.expected[f"loss:{name}"], name)
                compared.add(f"loss:{name}")
        if published in weights:
            if key in losses:
                assert term.weight == weights[published], published
            else:
                total = total + weights[published] * values.detach().sum()
    run.check(total, run.expected["loss_total"], "loss_total")
    compared.add("loss_total")

    run.model.zero_grad()
    total.backward()
    parameters = dict(run.model.named_parameters())
    names = NAME_MAPS[run.case["method"]]
    for key, value in run.expected.items():
        if key.startswith("grad_norm:"):
            published = key.removeprefix("grad_norm:")
            ours = names.ours(published)
            run.check(parameters[ours].grad.norm(), value, key)
            compared.add(key)

    if "grad_norm_total" in run.expected:
        gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
        total_norm = torch.nn.utils.get_total_norm(gradients)
        run.check(total_norm, run.expected["grad_norm_total"], "grad_norm_total")
        compared.add("grad_norm_total")

    comparable = {key for key in run.expected if re.match("loss|match|grad_norm", key)}
    assert comparable - compared == set()
