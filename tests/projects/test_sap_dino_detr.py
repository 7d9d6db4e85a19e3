"""SAP-DINO-DETR: what its design promises, in float64, with weights away from the first ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from scipy.optimize import linear_sum_assignment
from tiny_models import (
    SIZES,
    keep_content,
    largest_difference,
    make_batch,
    make_model,
    noise,
    predict,
    tensors,
)

from sap_detr import model_zoo
from sap_detr.modeling import FeatureMap, Pyramid, Targets, cxcywh_to_xyxy
from sap_detr.modeling.matcher import OutsidePointCost
from sap_detr.projects.sap_dino_detr import SalientDenoiser, SalientReference, SapDinoDecoder

BOX = {"reference": "box", "mask_empty_slots": False, "padding_invariant": False}


def replaced(queries, slots, **fields):
    """Denoising queries with other values in some slots."""
    changed = {}
    for name, value in fields.items():
        x = getattr(queries, name).clone()
        x[:, slots] = value
        changed[name] = x
    return replace(queries, **changed)


def memory_of(model, batch):
    images = model.preprocess(batch)
    maps = []
    model.encoder.register_forward_hook(lambda m, a, x: maps.append(x))
    model.predict(images.tensor, images.image_sizes)
    model.encoder._forward_hooks.clear()
    return maps[-1]


def test_box_reference_is_dino():
    dino = make_model("dino").eval()
    sap = make_model("sap_dino", **BOX).eval()
    sap.load_state_dict(dino.state_dict())
    batch = make_batch()
    queries = noise(dino, batch)
    ours, theirs = predict(sap, batch, queries), predict(dino, batch, queries)
    for a, b in (
        (ours, theirs),
        (ours.proposals, theirs.proposals),
        (ours.denoising, theirs.denoising),
    ):
        assert largest_difference(a, b) == 0


def test_denoising_groups_do_not_leak():
    model, batch = make_model("sap_dino"), make_batch()
    queries = noise(model, batch)
    size = queries.labels.shape[1] // queries.groups
    assert queries.groups == 1
    model.denoiser.number = 12
    queries = noise(model, batch)
    assert queries.groups == 3
    before = predict(model, batch, queries)
    other = replaced(queries, slice(0, size), boxes=0.3, points=0.3)
    other = replace(other, labels=torch.where(other.empty, -1, (other.labels + 1) % 5))
    after = predict(
        model,
        batch,
        replace(other, labels=torch.cat((other.labels[:, :size], queries.labels[:, size:]), dim=1)),
    )
    assert largest_difference(after, before) == 0
    change = (after.denoising.boxes - before.denoising.boxes).abs().amax((0, 1, 3))
    assert change[size:].max() == 0
    assert change[:size].max() > 1e-3


def test_matching_queries_are_the_same_without_denoising():
    model, batch = make_model("sap_dino"), make_batch()
    assert (
        largest_difference(predict(model, batch), predict(model, batch, noise(model, batch)))
        < 1e-12
    )


def test_permuting_objects_permutes_outputs():
    model, batch = make_model("sap_dino"), make_batch((4, 4, 4))
    queries = noise(model, batch)
    order = torch.tensor([2, 0, 3, 1])
    index = (torch.arange(queries.labels.shape[1]).view(-1, 4)[:, order]).flatten()
    shuffled = replace(
        queries,
        labels=queries.labels[:, index],
        boxes=queries.boxes[:, index],
        points=queries.points[:, index],
        object_sizes=queries.object_sizes[:, index],
    )
    before = predict(model, batch, queries).denoising
    after = predict(model, batch, shuffled).denoising
    assert (after.boxes - before.boxes[:, :, index]).abs().max() < 1e-12
    assert (after.logits - before.logits[:, :, index]).abs().max() < 1e-10


@pytest.mark.parametrize("masked", [True, False])
def test_masked_empty_slots_change_no_filled_one(masked):
    """The same two objects, alone and beside an image with more of them."""
    model = make_model("sap_dino", mask_empty_slots=masked)
    batch = make_batch((2, 0, 2))
    queries = noise(model, batch)
    number = queries.labels.shape[1] // (2 * queries.groups)

    def spread(x, filler):
        """Two empty slots more after either half."""
        x = x.unflatten(1, (-1, number))
        pad = torch.full_like(x[:, :, :2], filler)
        return torch.cat((x, pad), dim=2).flatten(1, 2)

    more = replace(
        queries,
        labels=spread(queries.labels, -1),
        boxes=spread(queries.boxes, 0.5),
        points=spread(queries.points, 0.5),
        object_sizes=spread(queries.object_sizes, 0.0),
    )
    before = predict(model, batch, queries).denoising.boxes
    after = predict(model, batch, more).denoising.boxes.unflatten(2, (-1, number + 2))
    change = (after[:, :, :, :number].flatten(2, 3) - before).abs()[:, [0, 2]].max()
    assert (change < 1e-12) if masked else (change > 1e-6)
    logits = predict(model, batch, more).denoising.logits
    assert (logits[:, more.empty] == -1e4).all() == masked


@pytest.mark.parametrize("invariant", [True, False])
def test_padding_changes_nothing(invariant):
    """Given the features, with noise in the padding."""
    model = make_model("sap_dino", padding_invariant=invariant).eval()
    batch = make_batch()
    single = memory_of(model, batch[1:2])
    padded = []
    for level in single:
        _, _, height, width = level.features.shape
        larger = torch.randn(2, 32, height + 2, width + 3, dtype=torch.float64)
        larger[:1, :, :height, :width] = level.features
        mask = torch.ones(2, height + 2, width + 3, dtype=torch.bool)
        mask[0, :height, :width] = False
        mask[1] = False
        position = torch.zeros(2, 32, height + 2, width + 3, dtype=torch.float64)
        padded.append(FeatureMap(larger, position, mask))
    alone, together = model.decoder(single), model.decoder(padded)
    change = (alone.boxes[:, 0] - together.boxes[:, 0]).abs().max()
    assert (change < 1e-12) if invariant else (change > 1e-6)


def test_points_stay_in_their_cells_and_boxes():
    model, batch = make_model("sap_dino", away=0.3).eval(), make_batch()
    memory = memory_of(model, batch)
    predictions = predict(model, batch)
    pyramid = Pyramid.of(memory)
    priors, _ = SalientReference.priors(pyramid)
    tokens = predictions.proposals.tokens[..., None].expand(-1, -1, 2)
    low = priors.corner.gather(1, tokens)
    high = low + priors.cell.gather(1, tokens)
    for found in (predictions, predictions.proposals):
        assert (found.points >= low).all()
        assert (found.points <= high).all()
        boxes = cxcywh_to_xyxy(found.boxes)
        assert (boxes[..., :2] < found.points).all()
        assert (boxes[..., 2:] > found.points).all()
    moved = (predictions.points - predictions.proposals.points).abs().max()
    assert moved > 1e-3


def test_denoising_references_give_back_their_boxes():
    torch.manual_seed(0)
    batch = make_batch((6, 0, 4))
    model = make_model("sap_dino")
    model.denoiser.number = 300
    queries = noise(model, batch)
    pyramid = Pyramid.of(memory_of(model, batch))
    reference = SalientReference.of_denoising(queries, pyramid)
    filled = ~queries.empty
    first, second = cxcywh_to_xyxy(queries.boxes).split(2, dim=-1)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    found = cxcywh_to_xyxy(reference.boxes)
    limit = 1e-3 * (1 + reference.cell.repeat(1, 1, 2)) + 1e-9
    difference = (found - torch.cat((low, high), dim=-1)).abs()
    assert (difference < limit)[filled].all()
    # The salient points of positives are in the object and in their own box.
    objects = cxcywh_to_xyxy(model.collect_targets(batch).boxes)
    match = queries.matches
    points = queries.points[match.image, match.query[0]]
    inside = objects[match.image, match.target[0]]
    own = torch.cat((low, high), dim=-1)[match.image, match.query[0]]
    for boxes in (inside, own):
        assert (points >= boxes[:, :2] - 1e-12).all()
        assert (points <= boxes[:, 2:] + 1e-12).all()
    assert len(points) == sum((6, 0, 4)) * queries.groups
    # Cells go by the size of the object.
    levels = torch.log2(queries.object_sizes[filled] / 0.05).add(0.5).floor().clamp(0, 3)
    assert len(levels.unique()) > 1


def test_at_the_start_all_boxes_are_the_priors():
    model, batch = make_model("sap_dino", away=0.0).eval(), make_batch()
    predictions = predict(model, batch)
    priors, _ = SalientReference.priors(Pyramid.of(memory_of(model, batch)))
    tokens = predictions.proposals.tokens[..., None]
    expected = priors.map(
        lambda x: x.expand(3, -1, -1).gather(1, tokens.expand(-1, -1, x.shape[-1]))
    )
    assert (predictions.proposals.boxes[0] - expected.boxes).abs().max() < 1e-15
    assert (predictions.boxes - predictions.proposals.boxes).abs().max() < 1e-15


def test_fixed_points_stay_where_they_start():
    model, batch = make_model("sap_dino", point_movable=False, away=0.3).eval(), make_batch()
    queries = noise(model, batch)
    predictions = predict(model, batch, queries)
    assert torch.equal(predictions.points, predictions.proposals.points.expand(3, -1, -1, -1))
    start = SalientReference.of_denoising(queries, Pyramid.of(memory_of(model, batch))).points
    assert torch.equal(predictions.denoising.points, start.expand(3, -1, -1, -1))
    assert (predictions.boxes - predictions.proposals.boxes).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["decoder", "proposals"])
def test_as_few_points_as_possible_are_outside_of_their_objects(part):
    model, batch = make_model("sap_dino"), make_batch((3, 0, 5))
    predictions = predict(model, batch)
    targets = model.collect_targets(batch)
    found = model.criterion.match(predictions, targets)
    prefix, scored = (
        ("", predictions) if part == "decoder" else ("proposal_", predictions.proposals)
    )
    outside = OutsidePointCost(weight=1.0)(scored, targets).detach().numpy()
    for layer in range(len(scored.boxes)):
        for image, (queries, objects) in enumerate(found[prefix].per_image(layer)):
            count = targets.counts[image]
            cost = outside[layer, image, :, :count]
            rows, columns = linear_sum_assignment(cost)
            taken = cost[queries.numpy(), objects.numpy()].sum()
            assert taken == cost[rows, columns].sum()


def test_boxes_have_no_gradient_to_the_first_stage_but_to_the_layer_before():
    model, batch = make_model("sap_dino"), make_batch()
    content = []
    keep_content(model.decoder.layers[1], content)
    predictions = predict(model, batch)
    predictions.points[2].sum().backward()
    assert content[0].grad.abs().max() > 0
    for head in (model.decoder.proposal_box_head, model.decoder.proposal_class_head):
        assert all(p.grad is None for p in head.parameters())


@pytest.mark.parametrize(
    "options",
    [{"gaussian": True}, {"objectness": True}, {"content": "memory"}, {"side_directed": False}],
    ids=str,
)
def test_switches_train(options):
    model, batch = make_model("sap_dino", **options), make_batch()
    if "objectness" in options:
        from sap_detr.modeling import ObjectnessLoss

        model.criterion.losses["objectness"] = ObjectnessLoss(1.0, eps=1e-6)
        model.criterion.matcher.costs["class"].with_objectness = True
    losses = model(batch)
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    plain = make_model("sap_dino")
    assert set(tensors(predict(model, batch))) >= set(tensors(predict(plain, batch)))


def test_gaussian_prefers_points_near_its_centre():
    model, batch = make_model("sap_dino", gaussian=True).eval(), make_batch()
    before = predict(model, batch)
    for layer in model.decoder.layers:
        for head in layer.gaussian_head.layers:
            head.weight.data.zero_()
            head.bias.data.zero_()
    plain = make_model("sap_dino").eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert largest_difference(predict(model, batch), predict(plain, batch)) < 1e-12
    assert largest_difference(predict(model, batch), before) > 1e-6


def test_number_of_parameters():
    cfg = model_zoo.get_config("sap_dino_detr/sap_dino_detr_r50_4scale_12ep.py").model
    cfg.num_classes = 91
    with torch.device("meta"):
        model = instantiate(cfg)
    assert sum(p.numel() for p in model.parameters()) == 46_959_746


def test_denoiser_has_published_groups_only_in_dino():
    assert [SalientDenoiser(n).num_groups(s) for n, s in ((49, 5), (100, 0), (3, 9))] == [9, 0, 1]


def test_wrong_reference():
    with pytest.raises(ValueError, match="'salient', or 'box'"):
        SapDinoDecoder(5, reference="point")
    with pytest.raises(ValueError, match="point_movable=False"):
        SapDinoDecoder(5, reference="box", point_movable=False)


def test_padding_is_taken_last_and_in_order():
    """Where an image has fewer cells than there are queries."""
    scores = torch.tensor([[1.0, -3.0, 5.0, 7.0]])
    maps = [
        FeatureMap(
            torch.zeros(1, 4, 1, 4),
            torch.zeros(1, 4, 1, 4),
            torch.tensor([[[False, False, True, True]]]),
        )
    ]
    rank = SalientReference.rank(scores, Pyramid.of(maps))
    assert rank.argsort(descending=True).tolist() == [[0, 1, 2, 3]]
    model = make_model("sap_dino", num_queries=300).eval()
    found = predict(model, make_batch(sizes=SIZES)).proposals
    assert (np.diff(found.tokens[1].numpy()[-50:]) == 1).mean() > 0.8
    assert found.points[0, 1].max() > 1
    assert isinstance(model.collect_targets(make_batch()), Targets)
