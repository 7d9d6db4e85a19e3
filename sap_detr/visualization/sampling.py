"""Record where SAP-DINO-DETR's queries sample the memory and where their points move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..modeling import DinoDecoder, FeatureMap, Predictions, Pyramid, cxcywh_to_xyxy
from ..modeling.decoders import DeformableDecoderLayer
from ..modeling.reference_points import corners_from_sides
from .attention import AttentionRecorder, QueryTrace, of_image, of_query


class SamplingRecorder:
    """A context in which a decoder's forward passes are recorded; only the last one is kept.

    It is used like :class:`AttentionRecorder`. Inside, the decoder predicts with all of its layers
    and its first stage, and the locations that every layer samples are computed once more.

    Args:
        decoder: with deformable attention and salient points.

    Raises:
        ValueError: if its queries have no points.
    """

    def __init__(self, decoder: DinoDecoder) -> None:
        if not decoder.reference.salient:
            raise ValueError(
                "points can be drawn for models whose queries have some; this one's are boxes "
                f"({decoder.reference.__name__})"
            )
        self.decoder = decoder
        self._layers: list[tuple[Tensor, ...]] = []
        self._pyramid: Pyramid | None = None
        self._predictions: Predictions | None = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> SamplingRecorder:
        self._handles = [
            self.decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.decoder.register_forward_hook(self._end),
            *(layer.register_forward_hook(self._record_layer) for layer in self.decoder.layers),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        memory: Sequence[FeatureMap] = args[0]
        self._pyramid = Pyramid.of(memory)
        self._layers, self._predictions = [], None
        return (memory,), {"all_layers": True}

    def _end(self, decoder: nn.Module, args: tuple[Any, ...], predictions: Predictions) -> None:
        self._predictions = predictions

    @torch.no_grad()
    def _record_layer(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(layer, DeformableDecoderLayer)
        content, position, points, sides, _, _, allowed = args
        content = layer.attend_to_queries(content, position, allowed)
        locations, weights = layer.samples(content, position, points, sides)
        self._layers.append((locations, weights, points[:, :, 0], sides[:, :, 0]))

    @torch.no_grad()
    def traces(self, queries: Sequence[int], image: int = 0) -> list[QueryTrace]:
        """Return what queries did; see :meth:`AttentionRecorder.traces`."""
        pyramid, found = self._pyramid, self._predictions
        if pyramid is None or found is None or found.points is None or found.proposals is None:
            raise RuntimeError("nothing is recorded: run the model inside of the context first")
        assert found.proposals.tokens is not None
        tokens = found.proposals.tokens[image]
        extents = of_image(pyramid.extents, image)
        corner = of_image(pyramid.corners, image)[tokens]
        cell = 1 / extents[pyramid.level[tokens]]
        # Samples of one head: (Q, M, S, 3) with S = levels * points; x, y and weight.
        samples = torch.stack(
            [
                torch.cat((where[image] / extents[:, None], weight[image][..., None]), dim=-1)
                for where, weight, _, _ in self._layers
            ]
        ).flatten(3, 4)
        finest = torch.cat((extents[0], extents[0]))
        entering = torch.stack([point[image] / extents[0] for _, _, point, _ in self._layers])
        sides = torch.stack([side[image] / finest for _, _, _, side in self._layers])
        boxes = cxcywh_to_xyxy(found.boxes[:, image])
        return [
            QueryTrace(
                query=query,
                cell=of_query(torch.cat((corner, corner + cell), dim=-1), query),
                start=of_query(corner + cell / 2, query),
                points=of_query(found.points[:, image], query),
                boxes=of_query(boxes, query),
                entering_points=of_query(entering, query),
                entering_boxes=of_query(corners_from_sides(entering, sides), query),
                samples=samples[:, query].float().cpu().numpy(),
            )
            for query in queries
        ]


def record_points(decoder: nn.Module) -> AttentionRecorder | SamplingRecorder:
    """Return the recorder that fits a decoder.

    Raises:
        ValueError: if its queries have no points.
    """
    if isinstance(decoder, DinoDecoder):
        return SamplingRecorder(decoder)
    return AttentionRecorder(decoder)
