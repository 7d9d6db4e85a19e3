"""What a detector does with an image, layer by layer, as arrays: for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..layers import DeformableAttention
from ..modeling import (
    Comparison,
    DetectionTransformer,
    DinoDecoder,
    FeatureMap,
    Predictions,
    Pyramid,
    SapDetrDecoder,
    cxcywh_to_xyxy,
)
from ..modeling.decoders.dino import DeformableDecoderLayer
from ..modeling.decoders.point_attention import QueryPosition
from ..modeling.reference_points import corners_from_sides
from .pixels import Pixels
from .predictor import Predictor, check_finite
from .recording import DecoderRecorder, Floats, LayerRecord

Integers = NDArray[np.int64]
# A deformable attention, its queries and their points in cells.
Sampled = tuple[DeformableAttention, Tensor, Tensor]

# Places along the longer and the shorter side of an image where the encoder's samples are kept.
ENCODER_PLACES = (8, 6)


@dataclass(frozen=True)
class EncoderSamples:
    """Where a deformable encoder samples the levels from some of its tokens, those of the finest.

    Attributes:
        places: (P, 2), where the tokens are.
        samples: (P, E, M, S, 3), x, y and weight of the S samples of each head in E layers.
        levels: (S,), the level that each sample is of, 0 is the finest.
    """

    places: Floats
    samples: Floats
    levels: Integers


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What Q queries do in the L layers of a decoder with M heads, in one image.

    Coordinates are fractions of the image without padding, points (x, y) and boxes XYXY; points and
    boxes may lie outside of it. What a method does not have is None.

    Attributes:
        method: the decoder's class.
        scores: (L, Q), of the best class after each layer.
        classes: (L, Q), that class.
        boxes: (L, Q, 4), the boxes after each layer.
        points: (L, Q, 2), the points that these are measured from (SAP-DETR, SAP-DINO-DETR).
        entering_points: (L, Q, 2), the points that the layers are given.
        entering_boxes: (L, Q, 4), the boxes that the layers are given.
        cells: (Q, 4), the cells that points can't leave.
        centres: (L, M, Q, 2), the centres of the heads' Gaussians (SAP-DETR, SMCA).
        spreads: (L, M, Q, 2), the standard deviations of the Gaussians.
        salient: (L, M, Q, 2), the points whose memory the heads take as query (SAM-DETR).
        queries: (n,), the queries that the following is of.
        attention: for each layer (n, M, H, W), the weights of the cross-attention, which sum up to
            1 over the cells of the level that the layer reads.
        samples: (L, n, M, S, 3), where a deformable cross-attention samples the memory: x, y and
            the weight, which sum up to 1 for each head (DINO, SAP-DINO-DETR).
        sample_levels: (S,), the level that each sample is of, 0 is the finest.
        self_attention: (L, n, M, Q), the weights with which queries read queries, whose sum is 1.
        encoder: what a deformable encoder samples (SAM-DETR-MS, DINO, SAP-DINO-DETR).
        detected: (N,), the queries of the detections, the best first.
        detected_classes: (N,), their classes.
        detected_scores: (N,), their scores.
    """

    method: str
    scores: Floats
    classes: Integers
    boxes: Floats
    points: Floats | None = None
    entering_points: Floats | None = None
    entering_boxes: Floats | None = None
    cells: Floats | None = None
    centres: Floats | None = None
    spreads: Floats | None = None
    salient: Floats | None = None
    queries: Integers
    attention: tuple[Floats, ...] | None = None
    samples: Floats | None = None
    sample_levels: Integers | None = None
    self_attention: Floats
    encoder: EncoderSamples | None
    detected: Integers
    detected_classes: Integers
    detected_scores: Floats


def explain(
    predictor: Predictor,
    image: Pixels,
    num_queries: int = 20,
    threshold: float = 0.0,
    queries: Sequence[int] | None = None,
) -> Explanation:
    """Detect in an image, and return what queries did.

    Args:
        predictor: of any method of this package, or of one whose decoder has ``layers`` with
            ``self_attn`` and ``cross_attn`` of this package.
        image: (H, W, 3), uint8, RGB.
        num_queries: attention and samples are kept of that many queries, those that detect best.
        threshold: of the detections; others are not listed.
        queries: those of which attention and samples are kept, in place of ``num_queries``.

    Raises:
        ValueError: the image is something else, or the model is none that can be explained.
        NonFiniteDetectionsError: boxes or scores of the model are not finite.
    """
    model = predictor.model
    if not isinstance(model, DetectionTransformer):
        raise ValueError(
            f"a {type(model).__name__} can't be explained: only detectors of this package "
            "(DetectionTransformer), since others have other parts"
        )
    inputs = predictor.prepare(image)
    sampled: list[Sampled] = []

    def keep(module: DeformableAttention, args: tuple[Any, ...]) -> None:
        sampled.append((module, args[0], args[1]))

    with DecoderRecorder(model.decoder) as recorder:
        for module in model.encoder.modules():
            if isinstance(module, DeformableAttention):
                recorder.enter_context(module.register_forward_pre_hook(keep))
        [found] = predictor.detect([inputs])
    check_finite(found)
    with torch.no_grad():
        order = found.scores.argsort(descending=True, stable=True)
        if queries is None:
            queries = list(dict.fromkeys(found.query_index[order].tolist()))[:num_queries]
        shown = order[found.scores[order] >= threshold]
        scores, classes = _best_classes(recorder.predictions, model.num_classes)
        return Explanation(
            method=type(model.decoder).__name__,
            scores=_array(scores),
            classes=classes.cpu().numpy(),
            boxes=_array(cxcywh_to_xyxy(recorder.predictions.boxes[:, 0])),
            queries=np.array(queries, dtype=np.int64),
            encoder=_encoder_samples(recorder.memory, sampled) if sampled else None,
            detected=found.query_index[shown].numpy(),
            detected_classes=found.pred_classes[shown].numpy(),
            detected_scores=_array(found.scores[shown]),
            **explain_decoder(recorder, queries),
        )


def _encoder_samples(memory: Sequence[FeatureMap], sampled: Sequence[Sampled]) -> EncoderSamples:
    """Return what tokens of the finest level sampled in every layer."""
    pyramid = Pyramid.of(memory)
    columns, rows = (int(n) for n in pyramid.extents[0, 0])
    across, down = ENCODER_PLACES if columns >= rows else ENCODER_PLACES[::-1]
    x, y = (
        ((torch.arange(min(count, length)) + 0.5) / min(count, length) * length).long()
        for count, length in ((across, columns), (down, rows))
    )
    tokens = (y[:, None] * pyramid.sizes[0][1] + x).flatten().to(pyramid.tokens.device)
    samples = []
    for module, query, points in sampled:
        where, weights = module.samples(query[:1, tokens], points[:1, tokens])
        samples.append(_samples(where[0], weights[0], pyramid.extents[0]))
    return EncoderSamples(
        places=_array(pyramid.centres[0, tokens]),
        samples=_array(torch.stack(samples, dim=1)),
        levels=_sample_levels(sampled[0][0]),
    )


def _best_classes(predictions: Predictions, num_classes: int) -> tuple[Tensor, Tensor]:
    """Scores and numbers (L, Q) of the best classes; a softmax where there is "no object"."""
    logits = predictions.logits[:, 0]
    scores = logits.sigmoid() if logits.shape[-1] == num_classes else logits.softmax(-1)
    best = scores[..., :num_classes].max(-1)
    return best.values, best.indices


@torch.no_grad()
def explain_decoder(recorder: DecoderRecorder, queries: Sequence[int]) -> dict[str, Any]:
    """Return what the layers of a decoder did with the first image of a batch.

    Args:
        recorder: has recorded a forward pass.
        queries: attention and samples are those of these.

    Returns:
        Those parts of an :class:`Explanation` that the method has and that the decoder tells.
    """
    decoder, predictions = recorder.decoder, recorder.predictions
    pyramid = Pyramid.of(recorder.memory)
    found: dict[str, Any] = {}
    layers: dict[str, list[Tensor]] = {}
    for record in recorder.layers:
        parts = {"self_attention": record.attentions[0].weights(queries).transpose(0, 1)}
        if isinstance(record.module, DeformableDecoderLayer):
            parts |= _sampling(record, record.module, queries, pyramid.extents[0])
            found["sample_levels"] = _sample_levels(record.module.cross_attn)
        else:
            parts |= _attending(record, queries, recorder.memory)
        for name, part in parts.items():
            layers.setdefault(name, []).append(part)
    for name, stack in layers.items():
        arrays = tuple(map(_array, stack))
        found[name] = arrays if name == "attention" else np.stack(arrays)
    if predictions.points is not None:
        found["points"] = _array(predictions.points[:, 0])
    if isinstance(decoder, SapDetrDecoder):
        corners = decoder.query_references(groups=1)[0][0]
        found["cells"] = _array(torch.cat((corners, corners + 1 / decoder.grid_size), dim=-1))
    if isinstance(decoder, DinoDecoder) and decoder.reference.salient:
        assert predictions.proposals is not None
        assert predictions.proposals.tokens is not None
        tokens = predictions.proposals.tokens[0]
        corners, sides = pyramid.corners[0][tokens], 1 / pyramid.extents[0][pyramid.level[tokens]]
        found["cells"] = _array(torch.cat((corners, corners + sides), dim=-1))
    elif isinstance(decoder, DinoDecoder):
        del found["entering_points"]  # the middles of the boxes
    return found


def _attending(
    record: LayerRecord, queries: Sequence[int], memory: Sequence[FeatureMap]
) -> dict[str, Tensor]:
    """Parts of a layer that attends to all cells of one level."""
    level, compared = memory[0], record.comparison
    if compared is not None:
        sizes = [tuple(level.features.shape[-2:]) for level in memory]
        level = memory[sizes.index(compared.memory.size)]
    extent = level.extent(valid_only=True)[0]
    columns, rows = (int(n) for n in extent)
    weights = record.attentions[1].weights(queries).transpose(0, 1)
    maps = weights.unflatten(-1, level.features.shape[-2:])[..., :rows, :columns]
    parts = {"attention": maps} | _entering(record.arguments)
    return parts if compared is None else parts | _places(compared, extent)


def _entering(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Points and boxes among the arguments of a layer, of SAP-DETR or with ``boxes`` (cxcywh)."""
    position = arguments.get("position")
    if isinstance(position, QueryPosition):
        points, sides = position.points[0], position.sides[0]
        return {"entering_points": points, "entering_boxes": corners_from_sides(points, sides)}
    if "boxes" in arguments:
        return {"entering_boxes": cxcywh_to_xyxy(arguments["boxes"][0])}
    return {}


def _places(compared: Comparison, extent: Tensor) -> dict[str, Tensor]:
    """Gaussians and salient points of a layer, (M, Q, 2) each."""
    found = {}
    if compared.gaussian is not None:
        centre, sharpness = (x[0] for x in compared.gaussian)
        found["centres"] = compared.memory.extent[0] * centre / extent
        # The logit falls by an eighth of (sharpness * distance in cells) ** 2.
        found["spreads"] = 2 / sharpness.abs().clamp(min=1e-6) / extent
    if compared.points is not None:
        found["salient"] = compared.points[0]
    return found


def _sampling(
    record: LayerRecord, layer: DeformableDecoderLayer, queries: Sequence[int], extents: Tensor
) -> dict[str, Tensor]:
    """Parts of a layer that samples all levels."""
    given = record.arguments
    content = layer.attend_to_queries(given["content"], given["position"], given["allowed"])
    where, weights = layer.samples(content, given["position"], given["points"], given["sides"])
    finest = extents[0]
    points, sides = given["points"][0, :, 0] / finest, given["sides"][0, :, 0] / finest.tile(2)
    return {
        "samples": _samples(where[0], weights[0], extents)[queries],
        "entering_points": points,
        "entering_boxes": corners_from_sides(points, sides),
    }


def _samples(locations: Tensor, weights: Tensor, extents: Tensor) -> Tensor:
    """Return samples (Q, M, S, 3), from locations (Q, M, L, P, 2) in cells and their weights."""
    return torch.cat((locations / extents[:, None], weights[..., None]), dim=-1).flatten(2, 3)


def _sample_levels(attention: DeformableAttention) -> Integers:
    levels: Integers = np.repeat(np.arange(attention.num_levels), attention.num_points)
    return levels


def _array(x: Tensor) -> Floats:
    array: Floats = x.float().cpu().numpy()
    return array
