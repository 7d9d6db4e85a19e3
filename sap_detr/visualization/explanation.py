"""What a detector does with an image, layer by layer, as arrays: for all methods."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..layers import DeformableAttention, MultiheadAttention, PositionedSelfAttention
from ..modeling import (
    Comparison,
    DetectionTransformer,
    DinoDecoder,
    FeatureMap,
    MemoryAttention,
    PostNormDecoderLayer,
    Predictions,
    Pyramid,
    SapDetrDecoder,
    cxcywh_to_xyxy,
)
from ..modeling.decoders import DeformableDecoderLayer
from ..modeling.decoders.point_attention import QueryPosition
from ..modeling.reference_points import corners_from_sides
from ..modeling.structures import single_level
from .attention import DotProductAttention, DotProductCapture, Floats
from .pixels import Pixels
from .predictor import Predictor, check_finite
from .recording import DecoderRecorder

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
    with _LayerRecorder(model.decoder) as recorder, encoder:
        [found] = predictor.detect([inputs])
    check_finite(found)
    memory, predictions = recorder.last_pass()
    with torch.no_grad():
        order = found.scores.argsort(descending=True, stable=True)
        queries = list(dict.fromkeys(found.query_index[order].tolist()))[:num_queries]
        shown = order[found.scores[order] >= threshold]
        scores, classes = _best_classes(predictions, model.num_classes)
        parts = _explain_layers(recorder.by_layer(), model.decoder, memory, predictions, queries)
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
        **parts,
    )


@dataclass(frozen=True)
class _Event:
    """A module of a decoder that ran: an attention, or a layer with its arguments by name."""

    module: nn.Module
    attention: DotProductAttention | None = None
    comparison: Comparison | None = None
    arguments: dict[str, Any] | None = None


class _LayerRecorder(DecoderRecorder[_Event]):
    """Records both attentions of every layer, then the layer.

    Attentions run once more: the second time their dot products are seen.
    """

    def __init__(self, decoder: nn.Module) -> None:
        kinds = (MultiheadAttention, PositionedSelfAttention, MemoryAttention, PostNormDecoderLayer)
        super().__init__(decoder, kinds)
        if not any(isinstance(module, PostNormDecoderLayer) for module in decoder.modules()):
            raise ValueError(
                f"the layers of {type(decoder).__name__} can't be explained: derive them from "
                "sap_detr.modeling.PostNormDecoderLayer"
            )

    def record(self, module: nn.Module, args: tuple[Any, ...]) -> _Event:
        """Return what is kept of a module that was called with these arguments."""
        if isinstance(module, PostNormDecoderLayer):
            return _Event(module, arguments=inspect.signature(module.forward).bind(*args).arguments)
        compared = None
        with DotProductCapture() as capture:
            if isinstance(module, MemoryAttention):
                compared = module.compare(*args)
                # Keys that all heads share are not always compared by a dot-product attention.
                keys = compared.key.expand(-1, module.num_heads, -1, -1)
                module.read(replace(compared, key=keys))
            else:
                module.forward(*args)
        (attention,) = capture.calls
        return _Event(module, attention, compared)

    def by_layer(self) -> list[list[_Event]]:
        """Return the events of every layer: the attentions in order, the layer last."""
        layers: list[list[_Event]] = [[]]
        for event in self.layers:
            layers[-1].append(event)
            if event.arguments is not None:
                layers.append([])
        return layers[:-1]


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
            found = module.samples(query[:1, tokens], points[:1, tokens])
            samples.append(_samples(*found, pyramid.extents[0]))
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


def _explain_layers(
    layers: Sequence[Sequence[_Event]],
    decoder: nn.Module,
    memory: Sequence[FeatureMap],
    predictions: Predictions,
    queries: Sequence[int],
) -> dict[str, Any]:
    """Return the parts of an explanation that come from the layers of a decoder."""
    if isinstance(decoder, DinoDecoder):
        found = _explain_sampling(layers, decoder, memory, predictions, queries)
    else:
        found = _explain_attention(layers, memory, queries)
    if isinstance(decoder, SapDetrDecoder):
        corners = decoder.query_references(groups=1)[0][0]
        found["cells"] = torch.cat((corners, corners + 1 / decoder.grid_size), dim=-1)
    weights = [_dot_product(events[0]).weights(0, queries) for events in layers]
    found["self_attention"] = torch.stack(weights).transpose(1, 2)
    parts: dict[str, Any] = dict.fromkeys(_OPTIONAL)
    return parts | {name: _arrays(x) for name, x in found.items()}


def _explain_attention(
    layers: Sequence[Sequence[_Event]], memory: Sequence[FeatureMap], queries: Sequence[int]
) -> dict[str, Any]:
    """Parts of layers that attend to all cells of one level."""
    found: dict[str, list[Tensor]] = {}
    for events in layers:
        cross, layer = events[1], events[-1]
        level = _level_read(cross, memory)
        extent = level.extent(valid_only=True)[0]
        columns, rows = (int(n) for n in extent)
        weights = _dot_product(cross).weights(0, queries).transpose(0, 1)
        maps = weights.unflatten(-1, level.features.shape[-2:])[..., :rows, :columns]
        parts = {"attention": maps} | _entering(layer.arguments or {})
        if cross.comparison is not None:
            parts |= _places(cross.comparison, extent)
        for name, part in parts.items():
            found.setdefault(name, []).append(part)
    return {name: x if name == "attention" else torch.stack(x) for name, x in found.items()}


def _entering(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Points and boxes among the arguments of a layer, of SAP-DETR or with ``boxes`` (cxcywh)."""
    position = arguments.get("position")
    if isinstance(position, QueryPosition):
        points, sides = position.points[0], position.sides[0]
        boxes = corners_from_sides(points, sides)
        return {"entering_points": points, "entering_boxes": boxes}
    if "boxes" in arguments:
        return {"entering_boxes": cxcywh_to_xyxy(arguments["boxes"][0])}
    return {}


def _places(compared: Comparison, extent: Tensor) -> dict[str, Tensor]:
    """Gaussians and salient points of a layer, (M, Q, 2) each."""
    found = {}
    if compared.gaussian is not None:
        centre, sharpness = compared.gaussian
        found["centres"] = compared.memory.extent[:1] * centre[0] / extent
        # The logit falls by an eighth of (sharpness * distance in cells) ** 2.
        found["spreads"] = 2 / sharpness[0].abs().clamp(min=1e-6) / extent
    if compared.points is not None:
        found["salient"] = compared.points[0]
    return found


def _explain_sampling(
    layers: Sequence[Sequence[_Event]],
    decoder: DinoDecoder,
    memory: Sequence[FeatureMap],
    predictions: Predictions,
    queries: Sequence[int],
) -> dict[str, Any]:
    """Parts of layers that sample all levels."""
    pyramid = Pyramid.of(memory)
    extents = pyramid.extents[0]
    found: dict[str, list[Tensor]] = {"samples": [], "entering_points": [], "entering_boxes": []}
    for events in layers:
        layer, arguments = cast(DeformableDecoderLayer, events[-1].module), events[-1].arguments
        assert arguments is not None
        points, sides = (arguments[name][0, :, 0] for name in ("points", "sides"))
        content, position = arguments["content"], arguments["position"]
        content = layer.attend_to_queries(content, position, arguments["allowed"])
        locations, weights = layer.samples(
            content, position, arguments["points"], arguments["sides"]
        )
        found["samples"].append(_samples(locations, weights, extents)[queries])
        finest = torch.cat((extents[0], extents[0]))
        points, sides = points / extents[0], sides / finest
        found["entering_points"].append(points)
        found["entering_boxes"].append(corners_from_sides(points, sides))
    parts: dict[str, Any] = {name: torch.stack(x) for name, x in found.items()}
    first = cast(DeformableDecoderLayer, layers[0][-1].module)
    parts["sample_levels"] = _sample_levels(first.cross_attn)
    if decoder.reference.salient:
        assert predictions.proposals is not None
        assert predictions.proposals.tokens is not None
        tokens = predictions.proposals.tokens[0]
        corners = pyramid.corners[0, tokens]
        parts["cells"] = torch.cat((corners, corners + 1 / extents[pyramid.level[tokens]]), dim=-1)
    else:
        del parts["entering_points"]  # the middles of the boxes
    return parts


def _samples(locations: Tensor, weights: Tensor, extents: Tensor) -> Tensor:
    """Return the samples (Q, M, S, 3) of the first image, from locations in cells and weights."""
    where = locations[0] / extents[:, None]
    return torch.cat((where, weights[0][..., None]), dim=-1).flatten(2, 3)


def _sample_levels(attention: DeformableAttention) -> Integers:
    levels: Integers = np.repeat(np.arange(attention.num_levels), attention.num_points)
    return levels


def _level_read(cross: _Event, memory: Sequence[FeatureMap]) -> FeatureMap:
    """Return the level of the memory that a cross-attention reads."""
    if cross.comparison is None:
        return single_level(memory)
    size = cross.comparison.memory.size
    return next(level for level in memory if tuple(level.features.shape[-2:]) == size)


def _dot_product(event: _Event) -> DotProductAttention:
    assert event.attention is not None
    return event.attention


def _array(x: Tensor) -> Floats:
    array: Floats = x.float().cpu().numpy()
    return array


def _arrays(x: Tensor | list[Tensor] | Integers) -> Floats | Integers | tuple[Floats, ...]:
    if isinstance(x, list):
        return tuple(map(_array, x))
    return _array(x) if isinstance(x, Tensor) else x
