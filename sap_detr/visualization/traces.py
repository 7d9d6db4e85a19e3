"""What queries with points look at and where their points move, as it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..modeling import DinoDecoder, SapDetrDecoder, cxcywh_to_xyxy
from .explanation import explain_layers
from .recording import DecoderRecorder, Floats


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


class PointRecorder(DecoderRecorder):
    """Records a decoder whose queries have points: SAP-DETR's or SAP-DINO-DETR's.

    ::

        with PointRecorder(model.decoder) as recorder:
            instances = predictor(image)
        traces = recorder.traces(instances.query_index.tolist())

    Raises:
        ValueError: if its queries have no points.
    """

    def __init__(self, decoder: nn.Module) -> None:
        if isinstance(decoder, DinoDecoder) and not decoder.reference.salient:
            raise ValueError(
                "points can be drawn for models whose queries have some; this one's are boxes "
                f"({decoder.reference.__name__})"
            )
        if not isinstance(decoder, SapDetrDecoder | DinoDecoder):
            raise ValueError(
                "points and their attention can be drawn for models with a SapDetrDecoder; this "
                f"one has a {type(decoder).__name__}, whose queries have no points in a grid"
            )
        super().__init__(decoder)

    @torch.no_grad()
    def traces(self, queries: Sequence[int], image: int = 0) -> list[QueryTrace]:
        """Return what queries did in the recorded forward pass.

        Args:
            queries: their indices; for detections, ``query_index`` of the instances.
            image: index of the image in the batch.

        Raises:
            RuntimeError: if no forward pass was recorded.
        """
        _, predictions = self.last_pass()
        assert predictions.points is not None
        found = explain_layers(self, queries, image)
        parts = {
            "cell": found["cells"],
            "points": predictions.points[:, image],
            "boxes": cxcywh_to_xyxy(predictions.boxes[:, image]),
            "entering_points": found["entering_points"],
            "entering_boxes": found["entering_boxes"],
        }
        if "centres" in found:
            parts["centres"] = found["centres"]
        cells = found["cells"]
        if "samples" in found:
            parts["start"] = (cells[:, :2] + cells[:, 2:]) / 2
            kept = {"samples": found["samples"]}
        else:
            parts["start"] = cells[:, :2]
            kept = {"attention": torch.stack(found["attention"])}
        return [
            QueryTrace(
                query,
                **{name: _array(x[..., query, :]) for name, x in parts.items()},
                **{name: _array(x[:, i]) for name, x in kept.items()},
            )
            for i, query in enumerate(queries)
        ]


def _array(x: Tensor) -> Floats:
    array: Floats = x.float().cpu().numpy()
    return array
