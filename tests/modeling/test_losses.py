import math

import pytest
import torch

from sap_detr.modeling import (
    CardinalityError,
    ClassError,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    L1BoxCost,
    L1BoxLoss,
    Matches,
    Predictions,
    SoftmaxClassLoss,
    Targets,
    cxcywh_to_xyxy,
    object_normalizer,
)

Batch = tuple[Predictions, Targets, Matches, torch.Tensor]

# Some images with more objects than queries, with none, and whole batches with none.
COUNTS = [(2, 0, 3), (7, 1, 0), (0, 0, 0)]


@pytest.fixture(params=COUNTS, ids=str)
def batch(request, make_predictions, make_targets) -> Batch:
    """2 layers, 3 images, 5 queries, 4 logits, in float64."""
    predictions, targets = make_predictions(2, 3, 5), make_targets(request.param)
    matches = HungarianMatcher({"bbox": L1BoxCost(), "giou": GIoUCost()})([predictions], targets)[0]
    return predictions, targets, matches, object_normalizer(sum(request.param), predictions.boxes)


def labels_of_queries(batch: Batch, layer: int, no_object: int) -> list[list[int]]:
    predictions, targets, matches, _ = batch
    _, images, queries, _ = predictions.logits.shape
    labels = [[no_object] * queries for _ in range(images)]
    for image, pair in enumerate(matches.per_image(layer)):
        for query, target in zip(*(x.tolist() for x in pair), strict=True):
            labels[image][query] = int(targets.labels[image, target])
    return labels


def pairs_of(batch: Batch, layer: int) -> list[tuple[int, int, int]]:
    return [
        (image, query, target)
        for image, pair in enumerate(batch[2].per_image(layer))
        for query, target in zip(*(x.tolist() for x in pair), strict=True)
    ]


def close(found: torch.Tensor, expected: list[float]) -> None:
    expected_tensor = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach(), expected_tensor, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("no_object_weight", [0.1, 0.4])
def test_class_loss_is_weighted_cross_entropy_over_the_sum_of_weights(batch, no_object_weight):
    expected = []
    for layer in range(2):
        total = weights = 0.0
        for image, labels in enumerate(labels_of_queries(batch, layer, 3)):
            for query, label in enumerate(labels):
                row = batch[0].logits[layer, image, query].tolist()
                nll = math.log(sum(math.exp(x) for x in row)) - row[label]
                weight = no_object_weight if label == 3 else 1.0
                total, weights = total + weight * nll, weights + weight
        expected.append(total / weights)
    close(SoftmaxClassLoss(no_object_weight=no_object_weight)(*batch), expected)


@pytest.mark.parametrize("as_corners", [False, True])
def test_l1_loss_is_the_sum_over_pairs_over_the_number_of_objects(batch, as_corners):
    targets, boxes = batch[1], batch[0].boxes.detach()
    convert = cxcywh_to_xyxy if as_corners else torch.Tensor.clone
    expected = [
        sum(
            (convert(boxes[layer, i, q]) - convert(targets.boxes[i, t])).abs().sum()
            for i, q, t in pairs_of(batch, layer)
        )
        / max(1, sum(targets.counts))
        for layer in range(2)
    ]
    close(L1BoxLoss(corners=as_corners)(*batch), [float(x) for x in expected])


def test_giou_loss_is_the_sum_over_pairs_over_the_number_of_objects(batch):
    predictions, targets, _, _ = batch
    expected = []
    for layer in range(2):
        total = 0.0
        for i, q, t in pairs_of(batch, layer):
            al, at, ar, ab = cxcywh_to_xyxy(predictions.boxes[layer, i, q]).tolist()
            bl, bt, br, bb = cxcywh_to_xyxy(targets.boxes[i, t]).tolist()
            inter = max(0.0, min(ar, br) - max(al, bl)) * max(0.0, min(ab, bb) - max(at, bt))
            union = (ar - al) * (ab - at) + (br - bl) * (bb - bt) - inter
            hull = (max(ar, br) - min(al, bl)) * (max(ab, bb) - min(at, bt))
            total += 1 - inter / union + (hull - union) / hull
        expected.append(total / max(1, sum(targets.counts)))
    close(GIoULoss()(*batch), expected)


def test_class_error_counts_matched_queries_over_all_logits(batch):
    expected = []
    for layer in range(2):
        pairs = pairs_of(batch, layer)
        hits = 0
        for image, query, target in pairs:
            row = batch[0].logits[layer, image, query].tolist()
            hits += row.index(max(row)) == int(batch[1].labels[image, target])
        expected.append(100 - 100 * hits / len(pairs) if pairs else 100.0)
    close(ClassError()(*batch), expected)


def test_cardinality_error_is_the_mean_difference_of_an_image(batch):
    expected = []
    for layer in range(2):
        differences = []
        for image, count in enumerate(batch[1].counts):
            rows = batch[0].logits[layer, image].tolist()
            found = sum(row.index(max(row)) != 3 for row in rows)
            differences.append(abs(found - count))
        expected.append(sum(differences) / 3)
    close(CardinalityError()(*batch), expected)


@pytest.mark.parametrize("loss", [SoftmaxClassLoss(), L1BoxLoss(), GIoULoss()])
def test_every_layer_has_its_own_gradient(make_predictions, make_targets, loss):
    predictions, targets = make_predictions(2, 3, 5), make_targets((2, 0, 3))
    matches = HungarianMatcher({"bbox": L1BoxCost()})([predictions], targets)[0]
    source = predictions.logits if isinstance(loss, SoftmaxClassLoss) else predictions.boxes
    values = loss(predictions, targets, matches, torch.tensor(5.0))
    (gradient,) = torch.autograd.grad(values[1], source)
    assert not gradient[0].any()
    assert gradient[1].any()


@pytest.mark.parametrize("term", [L1BoxLoss, GIoULoss])
def test_box_losses_are_divided_by_the_given_normalizer(make_predictions, make_targets, term):
    predictions, targets = make_predictions(1, 2, 5), make_targets((2, 1))
    matches = HungarianMatcher({"bbox": L1BoxCost()})([predictions], targets)[0]
    values = [term()(predictions, targets, matches, torch.tensor(n)) for n in (3.0, 6.0)]
    torch.testing.assert_close(values[0], 2 * values[1])
