"""What queries with points look at and where their points move, as it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..modeling import DinoDecoder, SapDetrDecoder
from .explanation import Explanation
from .recording import Floats


@dataclass(frozen=True)
class QueryTrace:
    """What one query does in the L layers of the decoder.

    Coordinates are fractions of the image without padding, points (x, y) and boxes XYXY; points and
    boxes may lie outside of it.

    Attributes:
        query: index of the query.
        cell: (4,), the cell that the point can't leave: of the grid, or of the query's token.
        start: (2,), where the point starts: the cell's upper left corner, or its middle.
        points: (L, 2), the points that the heads predict after each layer.
        boxes: (L, 4), the boxes that the heads predict after each layer.
        entering_points: (L, 2), the points that the layers are given. They are not the predicted
            ones of the layer before: the updates between layers see the content without its norm.
        entering_boxes: (L, 4), the boxes that the layers are given, as points with sides.
        centres: (L, M, 2), the centres of the Gaussians of the M heads; None if there are none.
        attention: (L, M, H, W), the weights of the cross-attention, which sum up to 1 over the
            H x W cells of the features that are not padding; None where it is deformable.
        samples: (L, M, S, 3), where a deformable attention samples all levels: x, y and the weight
            of each sample, which sum up to 1 for each head; None where it is not.
    """

    query: int
    cell: Floats
    start: Floats
    points: Floats
    boxes: Floats
    entering_points: Floats
    entering_boxes: Floats
    centres: Floats | None = None
    attention: Floats | None = None
    samples: Floats | None = None

    @classmethod
    def of(cls, found: Explanation, index: int) -> QueryTrace:
        """Return what the query at this place in ``found.queries`` does.

        Raises:
            ValueError: if queries have no points.
        """
        query = int(found.queries[index])
        if found.cells is None:
            raise ValueError(f"the queries of a {found.method} have no points")
        moving: dict[str, Any] = {
            name: None if (array := getattr(found, name)) is None else array[..., query, :]
            for name in ("points", "boxes", "entering_points", "entering_boxes", "centres")
        }
        cell, attention, samples = found.cells[query], found.attention, found.samples
        return cls(
            query=query,
            cell=cell,
            start=cell[:2] if samples is None else (cell[:2] + cell[2:]) / 2,
            attention=None if attention is None else np.stack([x[index] for x in attention]),
            samples=None if samples is None else samples[:, index],
            **moving,
        )


def check_points(decoder: nn.Module) -> None:
    """Check that a decoder's queries have points: SAP-DETR's or SAP-DINO-DETR's.

    Raises:
        ValueError: if they have none.
    """
    if isinstance(decoder, SapDetrDecoder):
        return
    if not isinstance(decoder, DinoDecoder) or not decoder.reference.salient:
        raise ValueError(
            "points and their attention can be drawn for SAP-DETR and SAP-DINO-DETR; this model "
            f"has a {type(decoder).__name__}, whose queries are boxes or have no place"
        )
