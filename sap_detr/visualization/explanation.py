"""What a detector does with an image, layer by layer, as arrays: for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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
from ..modeling.decoders import DeformableDecoderLayer
from ..modeling.decoders.point_attention import QueryPosition
from ..modeling.reference_points import corners_from_sides
from ..modeling.structures import single_level
from .pixels import Pixels
from .predictor import Predictor, check_finite
from .recording import DecoderRecorder, DotProductAttention, Event, Floats

Integers = NDArray[np.int64]

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


@dataclass(frozen=True)
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
    points: Floats | None
    entering_points: Floats | None
    entering_boxes: Floats | None
    cells: Floats | None
    centres: Floats | None
    spreads: Floats | None
    salient: Floats | None
    queries: Integers
    attention: tuple[Floats, ...] | None
    samples: Floats | None
    sample_levels: Integers | None
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
) -> Explanation:
    """Detect in an image, and return what queries did.

    Args:
        predictor: of any method of this package, or of one whose decoder has ``layers`` with
            ``self_attn`` and ``cross_attn`` of this package.
        image: (H, W, 3), uint8, RGB.
        num_queries: attention and samples are kept of that many queries, those that detect best.
        threshold: of the detections; others are not listed.

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
    encoder = _EncoderRecorder(model.encoder)
    with DecoderRecorder(model.decoder) as recorder, encoder:
        [found] = predictor.detect([inputs])
    check_finite(found)
    memory, predictions = recorder.last_pass()
    with torch.no_grad():
        order = found.scores.argsort(descending=True, stable=True)
        queries = list(dict.fromkeys(found.query_index[order].tolist()))[:num_queries]
        shown = order[found.scores[order] >= threshold]
        scores, classes = _best_classes(predictions, model.num_classes)
        parts = dict.fromkeys(_OPTIONAL) | explain_layers(recorder, queries)
        seen = [_dot_product(events[0]).weights(0, queries) for events in recorder.by_layer()]
        parts["self_attention"] = torch.stack(seen).transpose(1, 2)
    return Explanation(
        method=type(model.decoder).__name__,
        scores=_array(scores),
        classes=classes.cpu().numpy(),
        boxes=_array(cxcywh_to_xyxy(predictions.boxes[:, 0])),
        points=None if predictions.points is None else _array(predictions.points[:, 0]),
        queries=np.array(queries, dtype=np.int64),
        encoder=encoder.samples(memory),
        detected=found.query_index[shown].numpy(),
        detected_classes=found.pred_classes[shown].numpy(),
        detected_scores=_array(found.scores[shown]),
        **{name: _arrays(part) for name, part in parts.items()},
    )


class _EncoderRecorder:
    """A context in which the deformable attentions of an encoder are recorded."""

    def __init__(self, encoder: nn.Module) -> None:
        modules = [x for x in encoder.modules() if isinstance(x, DeformableAttention)]
        self._modules: list[DeformableAttention] = modules
        self._inputs: list[tuple[Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _EncoderRecorder:
        self._inputs = []
        self._handles = [x.register_forward_pre_hook(self._add) for x in self._modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _add(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inputs.append((args[0], args[1]))

    @torch.no_grad()
    def samples(self, memory: Sequence[FeatureMap]) -> EncoderSamples | None:
        """Return what tokens of the finest level sampled; None where nothing was."""
        if not self._inputs:
            return None
        pyramid = Pyramid.of(memory)
        columns, rows = (int(n) for n in pyramid.extents[0, 0])
        across, down = ENCODER_PLACES if columns >= rows else ENCODER_PLACES[::-1]
        x, y = (
            ((torch.arange(min(count, length)) + 0.5) / min(count, length) * length).long()
            for count, length in ((across, columns), (down, rows))
        )
        tokens = (y[:, None] * pyramid.sizes[0][1] + x).flatten().to(pyramid.tokens.device)
        samples = []
        for module, (query, points) in zip(self._modules, self._inputs, strict=True):
            where, weights = module.samples(query[:1, tokens], points[:1, tokens])
            samples.append(_samples(where[0], weights[0], pyramid.extents[0]))
        return EncoderSamples(
            places=_array(pyramid.centres[0, tokens]),
            samples=_array(torch.stack(samples, dim=1)),
            levels=_sample_levels(self._modules[0]),
        )


def _best_classes(predictions: Predictions, num_classes: int) -> tuple[Tensor, Tensor]:
    """Scores and numbers (L, Q) of the best classes; a softmax where there is "no object"."""
    logits = predictions.logits[:, 0]
    scores = logits.sigmoid() if logits.shape[-1] == num_classes else logits.softmax(-1)
    best = scores[..., :num_classes].max(-1)
    return best.values, best.indices


_OPTIONAL = [
    *("attention", "samples", "sample_levels", "entering_points", "entering_boxes"),
    *("cells", "centres", "spreads", "salient"),
]


def explain_layers(
    recorder: DecoderRecorder, queries: Sequence[int], image: int = 0
) -> dict[str, Any]:
    """Return what the layers of a decoder did.

    Args:
        recorder: has recorded a forward pass.
        queries: attention and samples are those of these.
        image: index of the image in the batch.

    Returns:
        Those parts of an :class:`Explanation` that the method has and that layers tell, as tensors.
    """
    if isinstance(recorder.decoder, DinoDecoder):
        return _explain_sampling(recorder, recorder.decoder, queries, image)
    found = _explain_attention(recorder, queries, image)
    if isinstance(recorder.decoder, SapDetrDecoder):
        corners = recorder.decoder.query_references(groups=1)[0][0]
        found["cells"] = torch.cat((corners, corners + 1 / recorder.decoder.grid_size), dim=-1)
    return found


def _explain_attention(
    recorder: DecoderRecorder, queries: Sequence[int], image: int
) -> dict[str, Any]:
    """Parts of layers that attend to all cells of one level."""
    memory, _ = recorder.last_pass()
    found: dict[str, list[Tensor]] = {}
    for events in recorder.by_layer():
        cross, layer = events[1], events[-1]
        level = _level_read(cross, memory)
        extent = _of_image(level.extent(valid_only=True), image)
        columns, rows = (int(n) for n in extent)
        weights = _dot_product(cross).weights(image, queries).transpose(0, 1)
        maps = weights.unflatten(-1, level.features.shape[-2:])[..., :rows, :columns]
        parts = {"attention": maps} | _entering(layer.arguments or {}, image)
        if cross.comparison is not None:
            parts |= _places(cross.comparison, extent, image)
        for name, part in parts.items():
            found.setdefault(name, []).append(part)
    return {name: x if name == "attention" else torch.stack(x) for name, x in found.items()}


def _entering(arguments: dict[str, Any], image: int) -> dict[str, Tensor]:
    """Points and boxes among the arguments of a layer, of SAP-DETR or with ``boxes`` (cxcywh)."""
    position = arguments.get("position")
    if isinstance(position, QueryPosition):
        points, sides = _of_image(position.points, image), _of_image(position.sides, image)
        return {"entering_points": points, "entering_boxes": corners_from_sides(points, sides)}
    if "boxes" in arguments:
        return {"entering_boxes": cxcywh_to_xyxy(_of_image(arguments["boxes"], image))}
    return {}


def _places(compared: Comparison, extent: Tensor, image: int) -> dict[str, Tensor]:
    """Gaussians and salient points of a layer, (M, Q, 2) each."""
    found = {}
    if compared.gaussian is not None:
        centre, sharpness = (x[image] for x in compared.gaussian)
        found["centres"] = _of_image(compared.memory.extent, image) * centre / extent
        # The logit falls by an eighth of (sharpness * distance in cells) ** 2.
        found["spreads"] = 2 / sharpness.abs().clamp(min=1e-6) / extent
    if compared.points is not None:
        found["salient"] = compared.points[image]
    return found


def _explain_sampling(
    recorder: DecoderRecorder, decoder: DinoDecoder, queries: Sequence[int], image: int
) -> dict[str, Any]:
    """Parts of layers that sample all levels."""
    memory, predictions = recorder.last_pass()
    pyramid = Pyramid.of(memory)
    extents = _of_image(pyramid.extents, image)
    found: dict[str, list[Tensor]] = {"samples": [], "entering_points": [], "entering_boxes": []}
    for events in recorder.by_layer():
        layer, arguments = cast(DeformableDecoderLayer, events[-1].module), events[-1].arguments
        assert arguments is not None
        points, sides = (arguments[name][image, :, 0] for name in ("points", "sides"))
        content, position = arguments["content"], arguments["position"]
        content = layer.attend_to_queries(content, position, arguments["allowed"])
        locations, weights = layer.samples(
            content, position, arguments["points"], arguments["sides"]
        )
        found["samples"].append(_samples(locations[image], weights[image], extents)[queries])
        finest = torch.cat((extents[0], extents[0]))
        points, sides = points / extents[0], sides / finest
        found["entering_points"].append(points)
        found["entering_boxes"].append(corners_from_sides(points, sides))
    parts: dict[str, Any] = {name: torch.stack(x) for name, x in found.items()}
    parts["sample_levels"] = _sample_levels(layer.cross_attn)
    if decoder.reference.salient:
        assert predictions.proposals is not None
        assert predictions.proposals.tokens is not None
        tokens = predictions.proposals.tokens[image]
        corners = _of_image(pyramid.corners, image)[tokens]
        parts["cells"] = torch.cat((corners, corners + 1 / extents[pyramid.level[tokens]]), dim=-1)
    else:
        del parts["entering_points"]  # the middles of the boxes
    return parts


def _samples(locations: Tensor, weights: Tensor, extents: Tensor) -> Tensor:
    """Return samples (Q, M, S, 3), from locations (Q, M, L, P, 2) in cells and their weights."""
    return torch.cat((locations / extents[:, None], weights[..., None]), dim=-1).flatten(2, 3)


def _of_image(x: Tensor, image: int) -> Tensor:
    """Return what is one image's of (B or 1, ...)."""
    return x[image if x.shape[0] > 1 else 0]


def _sample_levels(attention: DeformableAttention) -> Integers:
    levels: Integers = np.repeat(np.arange(attention.num_levels), attention.num_points)
    return levels


def _level_read(cross: Event, memory: Sequence[FeatureMap]) -> FeatureMap:
    """Return the level of the memory that a cross-attention reads."""
    if cross.comparison is None:
        return single_level(memory)
    size = cross.comparison.memory.size
    return next(level for level in memory if tuple(level.features.shape[-2:]) == size)


def _dot_product(event: Event) -> DotProductAttention:
    assert event.attention is not None
    return event.attention


def _array(x: Tensor) -> Floats:
    array: Floats = x.float().cpu().numpy()
    return array


def _arrays(x: Any) -> Any:
    if isinstance(x, list):
        return tuple(map(_array, x))
    return _array(x) if isinstance(x, Tensor) else x
