"""SAP-Group-DETR on SAP-DETR's golden cases: further groups change nothing of the first."""

from __future__ import annotations

import golden_cases
import numpy as np
import pytest
import torch
from builders import build
from test_golden import make_inputs

from sap_detr.checkpoint import NAME_MAPS
from sap_detr.modeling import layer_keys, object_normalizer

GROUPS = 3


@pytest.fixture(scope="module")
def case(request) -> dict:
    folder = request.config.getoption("--golden-dir")
    names = [path.stem for path in folder.glob("sap_detr*.json")]
    if "sap_detr_r50" not in names:
        pytest.skip("no case sap_detr_r50 in the folder of golden cases")
    return golden_cases.load("sap_detr_r50", folder)


@pytest.fixture(scope="module")
def model(case) -> torch.nn.Module:
    return build(
        case, golden_cases.weights(case), case["num_classes"], {"decoder.num_groups": GROUPS}
    )


def check(ours: torch.Tensor, theirs: np.ndarray, case: dict) -> None:
    difference = np.abs(ours.detach().numpy() - theirs) / np.maximum(1, np.abs(theirs))
    assert difference.max() <= case["tolerance"]


@pytest.mark.parametrize("training", [False, True])
def test_first_group_is_the_published_model(case, model, training):
    model.train(training)
    inputs = make_inputs(case)
    images = model.preprocess(inputs)
    with torch.no_grad():
        predictions = model.predict(images.tensor, images.image_sizes)
    assert predictions.groups == (GROUPS if training else 1)
    queries = case["outputs"]["boxes"].shape[2]
    assert predictions.boxes.shape[2] == queries * predictions.groups
    first = predictions.slice_queries(0, queries)
    check(first.boxes, case["outputs"]["boxes"], case)
    check(first.logits[:, :, :40], case["outputs"]["logits_first40"], case)
    matches = model.criterion.match(predictions, model.collect_targets(inputs))[""]
    for layer in range(len(predictions.boxes)):
        for image, pair in enumerate(matches.per_image(layer * predictions.groups)):
            expected = case["outputs"][f"match:{layer}:{image}"]
            assert np.array_equal(torch.stack(pair).numpy(), expected)


def test_equal_groups_have_the_published_losses_and_gradients(case, model):
    decoder = model.train().decoder
    with torch.no_grad():
        decoder.group_points.copy_(decoder.reference_points.repeat(GROUPS - 1, 1))
        decoder.group_sides.copy_(decoder.reference_sides.repeat(GROUPS - 1, 1))
    inputs = make_inputs(case)
    targets = model.collect_targets(inputs)
    images = model.preprocess(inputs)
    predictions = model.predict(images.tensor, images.image_sizes)
    normalizer = object_normalizer(sum(targets.counts), like=predictions.boxes)
    losses = model.criterion(predictions, targets, normalizer)
    published = {"class": "ce", "objectness": "ce_obj"}
    for name, term in model.criterion.losses.items():
        ours = layer_keys(f"loss_{name}", len(predictions.boxes))
        theirs = layer_keys(f"loss_{published.get(name, name)}", len(predictions.boxes))
        for mine, other in zip(ours, theirs, strict=True):
            check(losses[mine] / term.weight, case["outputs"][f"loss:{other}"], case)
    model.zero_grad()
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    names = NAME_MAPS["sap_detr"]
    compared = 0
    for key, value in case["outputs"].items():
        name = key.removeprefix("grad_norm:")
        if name == key:
            continue
        ours = names.ours(name)
        gradient = parameters[ours].grad
        if ours == "decoder.reference_sides":
            further = decoder.group_sides.grad.unflatten(0, (GROUPS - 1, -1)).sum(0)
            gradient = gradient + further
        check(gradient.norm(), value, case)
        compared += 1
    assert compared > 10
