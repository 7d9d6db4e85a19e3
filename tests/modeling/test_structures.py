import random

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from sap_detr.modeling import (
    FeatureMap,
    Matches,
    Predictions,
    Targets,
    padded_image_sizes,
    padding_mask_at,
)

CPU = torch.device("cpu")


def instances(image_size: tuple[int, int], boxes: list, classes: list) -> Instances:
    return Instances(
        image_size,
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
    )


def resampled_pixel_mask(
    image_sizes: list[tuple[int, int]], padded: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """The published way: a mask of all pixels, then nearest neighbours in two dimensions."""
    mask = torch.ones(len(image_sizes), *padded)
    for image, (height, width) in enumerate(image_sizes):
        mask[image, :height, :width] = 0
    return F.interpolate(mask[None], size=size)[0].bool()


def mask_of(
    image_sizes: list[tuple[int, int]], padded: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor | None:
    return padding_mask_at(padded_image_sizes(image_sizes, padded, CPU), padded, size)


@pytest.mark.parametrize("stride", [16, 32])
def test_padding_mask_is_the_resampled_pixel_mask(stride):
    rng = random.Random(stride)
    for _ in range(150):
        sizes = [(rng.randint(1, 420), rng.randint(1, 420)) for _ in range(3)]
        padded = (max(h for h, _ in sizes), max(w for _, w in sizes))
        size = (-(-padded[0] // stride), -(-padded[1] // stride))
        mask = mask_of(sizes, padded, size)
        expected = resampled_pixel_mask(sizes, padded, size)
        if mask is None:
            assert not expected.any()
        else:
            assert mask.dtype == torch.bool
            assert torch.equal(mask, expected), (sizes, size)


def test_padding_mask_does_not_count_whole_strides():
    mask = mask_of([(190, 64), (143, 64)], (190, 64), (12, 4))
    assert (~mask).any(2).sum(1).tolist() == [12, 10]  # ceil(143 / 16) would be 9


def test_nothing_is_spent_on_masks_where_no_image_is_padded():
    assert mask_of([(50, 60), (50, 60)], (50, 60), (2, 2)) is None
    assert mask_of([(50, 60), (50, 59)], (50, 60), (2, 2)) is not None


def test_tokens_go_row_by_row_and_back():
    features = torch.randn(2, 3, 4, 5)
    mask = torch.rand(2, 4, 5) > 0.5
    level = FeatureMap(features, features[:1], mask)
    assert level.tokens.shape == (2, 20, 3)
    assert torch.equal(level.tokens[1, 2 * 5 + 3], features[1, :, 2, 3])
    assert torch.equal(level.token_position[0, 2 * 5 + 3], features[0, :, 2, 3])
    assert level.token_padding_mask[1, 2 * 5 + 3] == mask[1, 2, 3]
    back = level.with_tokens(level.tokens + 1)
    assert torch.equal(back.features, features + 1)
    assert back.padding_mask is mask


def test_last_layer_keeps_the_leading_dimension():
    logits, boxes = torch.randn(3, 1, 2, 5), torch.rand(3, 1, 2, 4)
    last = Predictions(logits, boxes).last_layer
    assert torch.equal(last.logits, logits[2:])
    assert torch.equal(last.boxes, boxes[2:])
    assert last.points is None
    points = torch.rand(3, 1, 2, 2)
    assert torch.equal(Predictions(logits, boxes, points=points).last_layer.points, points[2:])


def test_targets_are_fractions_of_their_own_image():
    targets = Targets.from_instances(
        [
            instances((100, 200), [[20, 10, 60, 90]], [2]),
            instances((50, 80), [], []),
            instances((10, 10), [[0, 0, 10, 10], [5, 5, 10, 6]], [0, 1]),
        ],
        CPU,
        torch.float64,
    )
    expected = [
        [[0.2, 0.5, 0.2, 0.8], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
        [[0.5, 0.5, 1, 1], [0.75, 0.55, 0.5, 0.1]],
    ]
    torch.testing.assert_close(targets.boxes, torch.tensor(expected, dtype=torch.float64))
    assert targets.labels.tolist() == [[2, 0], [0, 0], [0, 1]]
    assert targets.counts == (1, 0, 2)


def test_targets_take_the_dtype_of_the_predictions():
    targets = Targets.from_instances([instances((9, 9), [[1, 1, 5, 5]], [0])], CPU, torch.float32)
    assert targets.boxes.dtype == torch.float32
    assert targets.labels.dtype == torch.int64


def test_targets_of_a_batch_without_objects():
    targets = Targets.from_instances([instances((9, 9), [], [])] * 2, CPU, torch.float64)
    assert targets.boxes.shape == (2, 0, 4)
    assert targets.labels.shape == (2, 0)
    assert targets.counts == (0, 0)


@pytest.fixture
def matches() -> Matches:
    """Two layers; three images with 2, 0 and 1 pairs; 4 queries, at most 3 objects."""
    return Matches(
        image=torch.tensor([0, 0, 2]),
        query=torch.tensor([[1, 3, 0], [0, 2, 3]]),
        target=torch.tensor([[2, 0, 0], [0, 2, 0]]),
        counts=(2, 0, 1),
    )


def test_matches_gather(matches):
    predictions = torch.randn(2, 3, 4, 5)
    objects = torch.randn(3, 3, 5)
    found, wanted = matches.gather_predictions(predictions), matches.gather_targets(objects)
    assert found.shape == wanted.shape == (2, 3, 5)
    for layer in range(2):
        for pair in range(3):
            image = matches.image[pair]
            query, target = matches.query[layer, pair], matches.target[layer, pair]
            assert torch.equal(found[layer, pair], predictions[layer, image, query])
            assert torch.equal(wanted[layer, pair], objects[image, target])


def test_matches_scatter_into_a_copy(matches):
    out = torch.zeros(2, 3, 4)
    values = torch.arange(1.0, 7.0).view(2, 3)
    result = matches.scatter(values, out)
    expected = torch.zeros(2, 3, 4)
    expected[0, 0, 1], expected[0, 0, 3], expected[0, 2, 0] = 1, 2, 3
    expected[1, 0, 0], expected[1, 0, 2], expected[1, 2, 3] = 4, 5, 6
    assert torch.equal(result, expected)
    assert not out.any()


def test_matches_per_image(matches):
    pairs = [[x.tolist() for x in pair] for pair in matches.per_image(0)]
    assert pairs == [[[1, 3], [2, 0]], [[], []], [[0], [0]]]
