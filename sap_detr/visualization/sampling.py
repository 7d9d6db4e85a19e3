"""Record where SAP-DINO-DETR's queries sample the memory and where their points move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling import DinoDecoder, Pyramid, cxcywh_to_xyxy
from ..modeling.decoders import DeformableDecoderLayer
from ..modeling.reference_points import corners_from_sides
from .attention import AttentionRecorder, QueryTrace, of_image, of_query
from .recording import DecoderRecorder


class SamplingRecorder(DecoderRecorder[tuple[Tensor, ...]]):
    """Records the locations that every layer samples, which are computed once more.

    It is used like :class:`AttentionRecorder`.

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
        super().__init__(decoder, DeformableDecoderLayer)

    def record(self, module: DeformableDecoderLayer, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Return locations and weights of the samples, points and sides."""
        content, position, points, sides, _, _, allowed = args
        content = module.attend_to_queries(content, position, allowed)
        locations, weights = module.samples(content, position, points, sides)
        return locations, weights, points[:, :, 0], sides[:, :, 0]

    @torch.no_grad()
    def traces(self, queries: Sequence[int], image: int = 0) -> list[QueryTrace]:
        """Return what queries did; see :meth:`AttentionRecorder.traces`."""
        memory, found = self.last_pass()
        assert found.points is not None
        pyramid = Pyramid.of(memory)
        assert found.proposals is not None
        assert found.proposals.tokens is not None
        tokens = found.proposals.tokens[image]
        extents = of_image(pyramid.extents, image)
        corner = of_image(pyramid.corners, image)[tokens]
        cell = 1 / extents[pyramid.level[tokens]]
        # Samples of one head: (Q, M, S, 3) with S = levels * points; x, y and weight.
        samples = torch.stack(
            [
                torch.cat((where[image] / extents[:, None], weight[image][..., None]), dim=-1)
                for where, weight, _, _ in self.layers
            ]
        ).flatten(3, 4)
        finest = torch.cat((extents[0], extents[0]))
        entering = torch.stack([point[image] / extents[0] for _, _, point, _ in self.layers])
        sides = torch.stack([side[image] / finest for _, _, _, side in self.layers])
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
