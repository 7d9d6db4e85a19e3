"""Record what SAP-DETR's queries look at and where their points move, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..layers import full_precision
from ..modeling import SapDetrDecoder, cxcywh_to_xyxy
from ..modeling.decoders.point_attention import PointCrossAttention
from ..modeling.reference_points import corners_from_sides
from ..modeling.structures import single_level
from .recording import DecoderRecorder

Floats = NDArray[np.float32]


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


@dataclass(frozen=True)
class DotProductAttention:
    """The arguments of one call of scaled dot-product attention, without dropout.

    Attributes:
        query: (B, M, Q, E).
        key: (B, M, N, E).
        value: (B, M, N, V).
        attn_mask: broadcastable to (B, M, Q, N): added to the logits, or if bool, False where there
            shall be no attention; None for neither.
        dropout_p: 0.
        scale: factor of the dot products; None for ``E ** -0.5``.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    scale: float | None = None

    def weights(self, image: int, queries: Sequence[int]) -> Tensor:
        """Attention weights (M, n, N) of n queries of an image, in full precision."""
        chosen = torch.as_tensor(queries, dtype=torch.long, device=self.query.device)
        query, key = full_precision(self.query[image][:, chosen]), full_precision(self.key[image])
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        logits = scale * query @ key.transpose(-1, -2)
        if self.attn_mask is not None:
            shape = (*self.query.shape[:3], self.key.shape[2])
            mask = self.attn_mask.expand(shape)[image][:, chosen]
            if mask.dtype == torch.bool:
                logits = logits.masked_fill(~mask, -torch.inf)
            else:
                logits = logits + full_precision(mask)
        return logits.softmax(-1)


class DotProductCapture(TorchFunctionMode):
    """Keeps the arguments of every scaled dot-product attention computed while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[DotProductAttention] = []

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` as it would without this mode."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.calls.append(DotProductAttention(*args, **kwargs))
        return func(*args, **kwargs)


@dataclass(frozen=True)
class LayerRecord:
    """The cross-attention of one decoder layer.

    Attributes:
        attention: what it computes the attention weights from.
        points: (B or 1, Q, 2), as the layer was given them.
        sides: (B or 1, Q, 4), as the layer was given them.
        centres: (B, M, Q, 2), the centres of the Gaussians in cells; None if there are none.
    """

    attention: DotProductAttention
    points: Tensor
    sides: Tensor
    centres: Tensor | None


class AttentionRecorder(DecoderRecorder[LayerRecord]):
    """Records the cross-attention, which runs twice: the second time its dot products are seen.

    ::

        with AttentionRecorder(model.decoder) as recorder:
            instances = predictor(image)
        traces = recorder.traces(instances.query_index.tolist())

    Args:
        decoder: of SAP-DETR.

    Raises:
        ValueError: if it is another decoder, one without reference points.
    """

    def __init__(self, decoder: nn.Module) -> None:
        if not isinstance(decoder, SapDetrDecoder):
            raise ValueError(
                "points and their attention can be drawn for models with a SapDetrDecoder; this "
                f"one has a {type(decoder).__name__}, whose queries have no points in a grid"
            )
        super().__init__(decoder, PointCrossAttention)
        self.decoder = decoder

    def record(self, module: PointCrossAttention, args: tuple[Any, ...]) -> LayerRecord:
        """Return what the layer computes its attention from."""
        content, position, memory, _ = args
        with DotProductCapture() as capture:
            module.forward(*args)
        (attention,) = capture.calls
        gaussian = module.gaussian(content, position)
        centres = None if gaussian is None else memory.extent[:, None, None] * gaussian[0]
        return LayerRecord(attention, position.points, position.sides, centres)

    @torch.no_grad()
    def traces(self, queries: Sequence[int], image: int = 0) -> list[QueryTrace]:
        """Return what queries did in the recorded forward pass.

        Args:
            queries: their indices; for detections, ``query_index`` of the instances.
            image: index of the image in the batch.

        Raises:
            RuntimeError: if no forward pass was recorded.
        """
        memory, predictions = self.last_pass()
        assert predictions.points is not None
        level = single_level(memory)
        extent = of_image(level.extent(valid_only=True), image)
        columns, rows = (int(length) for length in extent)
        weights = [layer.attention.weights(image, queries) for layer in self.layers]
        maps = torch.stack(weights).unflatten(-1, level.features.shape[-2:])[..., :rows, :columns]
        start = full_precision(self.decoder.reference_points).sigmoid()
        cells = torch.cat((start, start + 1 / self.decoder.grid_size), dim=-1)
        boxes = cxcywh_to_xyxy(predictions.boxes[:, image])
        entering = torch.stack([of_image(layer.points, image) for layer in self.layers])
        sides = torch.stack([of_image(layer.sides, image) for layer in self.layers])
        entering_boxes = corners_from_sides(entering, sides)
        centres = [x.centres[image] / extent for x in self.layers if x.centres is not None]
        return [
            QueryTrace(
                query=query,
                cell=of_query(cells, query),
                start=of_query(start, query),
                points=of_query(predictions.points[:, image], query),
                boxes=of_query(boxes, query),
                entering_points=of_query(entering, query),
                entering_boxes=of_query(entering_boxes, query),
                centres=of_query(torch.stack(centres), query) if centres else None,
                attention=of_query(maps.transpose(2, 3), i),
            )
            for i, query in enumerate(queries)
        ]


def of_image(x: Tensor, image: int) -> Tensor:
    """Return what is one image's of (B or 1, ...)."""
    return x[image if x.shape[0] > 1 else 0]


def of_query(x: Tensor, query: int) -> Floats:
    """Return (..., D) of a query in (..., Q, D)."""
    array: Floats = x[..., query, :].float().cpu().numpy()
    return array
