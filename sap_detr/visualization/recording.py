"""Record what a decoder is given, computes layer by layer, and predicts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..layers import MultiheadAttention, PositionedSelfAttention, full_precision
from ..modeling import (
    Comparison,
    FeatureMap,
    MemoryAttention,
    PostNormDecoderLayer,
    Predictions,
)

Floats = NDArray[np.float32]

_RECORDED = (MultiheadAttention, PositionedSelfAttention, MemoryAttention, PostNormDecoderLayer)


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

    def weights(self, queries: Sequence[int]) -> Tensor:
        """Attention weights (M, n, N) of n queries of the first image, in full precision."""
        chosen = torch.as_tensor(queries, dtype=torch.long, device=self.query.device)
        query, key = full_precision(self.query[0][:, chosen]), full_precision(self.key[0])
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        logits = scale * query @ key.transpose(-1, -2)
        if self.attn_mask is not None:
            shape = (*self.query.shape[:3], self.key.shape[2])
            mask = self.attn_mask.expand(shape)[0][:, chosen]
            if mask.dtype == torch.bool:
                logits = logits.masked_fill(~mask, -torch.inf)
            else:
                logits = logits + full_precision(mask)
        return logits.softmax(-1)


class _DotProductCapture(TorchFunctionMode):
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
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.calls.append(DotProductAttention(*args, **kwargs))
        return func(*args, **kwargs)


@dataclass(frozen=True)
class LayerRecord:
    """What a decoder layer did.

    Attributes:
        module: the layer.
        arguments: what it was given, by name.
        attentions: of the queries to each other, then to the memory unless that is deformable.
        comparison: what the memory was compared with, in a :class:`MemoryAttention`.
    """

    module: PostNormDecoderLayer
    arguments: dict[str, Any]
    attentions: list[DotProductAttention]
    comparison: Comparison | None


class DecoderRecorder(ExitStack):
    """A context in which a decoder's forward passes are recorded; only the last one is kept.

    Attentions run once more: the second time their dot products are seen. Inside, the decoder
    predicts with all of its layers. Outside, nothing is different from a decoder that was never
    recorded.

    Args:
        decoder: whose forward takes the memory first.

    Attributes:
        memory: what it was given.
        layers: what these did, in order.
        predictions: of all layers.

    Raises:
        ValueError: its layers are none of :class:`PostNormDecoderLayer`.
    """

    def __init__(self, decoder: nn.Module) -> None:
        if not any(isinstance(module, PostNormDecoderLayer) for module in decoder.modules()):
            raise ValueError(
                f"the layers of {type(decoder).__name__} can't be explained: derive them from "
                "sap_detr.modeling.PostNormDecoderLayer"
            )
        super().__init__()
        self.decoder = decoder
        self.memory: Sequence[FeatureMap]
        self.layers: list[LayerRecord] = []
        self.predictions: Predictions
        self._attentions: list[DotProductAttention] = []
        self._comparison: Comparison | None = None

    def __enter__(self) -> DecoderRecorder:
        self.enter_context(self.decoder.register_forward_pre_hook(self._begin, with_kwargs=True))
        self.enter_context(self.decoder.register_forward_hook(self._end))
        for module in self.decoder.modules():
            if isinstance(module, _RECORDED):
                self.enter_context(module.register_forward_hook(self._add))
        return self

    def _begin(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.memory, self.layers = args[0], []
        self._attentions, self._comparison = [], None
        return args[:1], {"all_layers": True}

    @torch.no_grad()
    def _add(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, PostNormDecoderLayer):
            arguments = inspect.signature(module.forward).bind(*args).arguments
            record = LayerRecord(module, arguments, self._attentions, self._comparison)
            self.layers.append(record)
            self._attentions, self._comparison = [], None
            return
        with _DotProductCapture() as capture:
            if isinstance(module, MemoryAttention):
                compared = self._comparison = module.compare(*args)
                # Keys that all heads share are not always compared by a dot-product attention.
                keys = compared.key.expand(-1, module.num_heads, -1, -1)
                module.read(replace(compared, key=keys))
            else:
                module.forward(*args)
        (attention,) = capture.calls
        self._attentions.append(attention)

    def _end(self, decoder: nn.Module, args: tuple[Any, ...], predictions: Predictions) -> None:
        self.predictions = predictions
