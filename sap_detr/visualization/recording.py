"""Record what a decoder is given, computes layer by layer, and predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..modeling import FeatureMap, Predictions

Record = TypeVar("Record")
Recorder = TypeVar("Recorder", bound="DecoderRecorder[Any]")


class DecoderRecorder(ABC, Generic[Record]):
    """A context in which a decoder's forward passes are recorded; only the last one is kept.

    Inside, the decoder predicts with all of its layers. Outside, nothing is different from a
    decoder that was never recorded.

    Args:
        decoder: whose forward takes the memory first.
        recorded: types of those of its modules that :meth:`record` is for.

    Attributes:
        layers: the modules' records, in the order in which they ran.
    """

    def __init__(
        self, decoder: nn.Module, recorded: type[nn.Module] | tuple[type[nn.Module], ...]
    ) -> None:
        self.layers: list[Record] = []
        self._decoder = decoder
        self._recorded = recorded
        self._memory: Sequence[FeatureMap] = ()
        self._predictions: Predictions | None = None
        self._handles: list[RemovableHandle] = []

    @abstractmethod
    def record(self, module: Any, args: tuple[Any, ...]) -> Record:
        """Return what is kept of a module that was called with these arguments."""

    def last_pass(self) -> tuple[Sequence[FeatureMap], Predictions]:
        """Return the memory and the predictions of the last forward.

        Raises:
            RuntimeError: if no forward pass was recorded.
        """
        predictions = self._predictions
        if predictions is None:
            raise RuntimeError("nothing is recorded: run the model inside of the context first")
        return self._memory, predictions

    def __enter__(self: Recorder) -> Recorder:
        self._handles = [
            self._decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._decoder.register_forward_hook(self._end),
        ]
        for module in self._decoder.modules():
            if isinstance(module, self._recorded):
                self._handles.append(module.register_forward_hook(self._add))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.layers, self._predictions = [], None
        self._memory = args[0]
        return args[:1], {"all_layers": True}

    @torch.no_grad()
    def _add(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.layers.append(self.record(module, args))

    def _end(self, decoder: nn.Module, args: tuple[Any, ...], predictions: Predictions) -> None:
        self._predictions = predictions
