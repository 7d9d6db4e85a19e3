"""Multiply-adds of a model: counted while it runs, on the meta device without computing anything.

The convention is that of the counter in fvcore and Detectron2, which the published figures of the
DETR family come from: one fused multiply-add is one FLOP.

* Counted: convolutions and matrix products, bias excluded, both products of attention (query x key,
  weights x value) in whatever kernel they run; 5 per element for layer and group normalisation (4
  without weights); 4 per element for bilinear samples of maps.
* Not counted: elementwise arithmetic (also sine, sigmoid, the Gaussians of attention), softmax,
  sums and other reductions (also the weighted sums of deformable attention, which published counts
  leave out), pooling, sorting, batch normalisation (at inference it can be folded into the
  convolution before it), and moving or making data.
* Whatever else ran is listed by name, so that a count is never silently too low.

Counted below autograd, where einsum, linear, matmul and whole attention modules have already been
taken apart into a few basic products, so they need no rules of their own. fvcore's own counter
needs a JIT trace instead, which records no convolution on the meta device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..modeling import DetectionTransformer
from .module_hooks import following
from .parameters import part_of

# Arguments and result of an operator to its multiply-adds.
Rule = Callable[[Sequence[Any], Any], int]


@dataclass(frozen=True)
class FlopCount:
    """Multiply-adds of one run, or their mean over several.

    Attributes:
        modules: dotted module name to what ran directly in it, not in its children; "" is the
            model itself. A module that is used in several places has its first name. Numbers add up
            to the total.
        operators: name such as "aten.convolution" to multiply-adds.
        uncounted: name to number of calls, of operators that nothing is known about.
    """

    modules: Mapping[str, float] = field(default_factory=dict)
    operators: Mapping[str, float] = field(default_factory=dict)
    uncounted: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Multiply-adds of the model."""
        return sum(self.modules.values())

    def by_part(self, depth: int = 1) -> dict[str, float]:
        """Multiply-adds of the parts of the model, as :func:`count_parameters_by_part` has them.

        Raises:
            ValueError: if ``depth`` is less than 1.
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        parts: dict[str, float] = {}
        for name, flops in self.modules.items():
            part = part_of(name, depth)
            parts[part] = parts.get(part, 0) + flops
        return parts


def mean_flops(counts: Iterable[tuple[FlopCount, int]]) -> FlopCount:
    """The weighted mean of counts, each with how often it occurs.

    Raises:
        ValueError: if there is none.
    """
    weighted = list(counts)
    weight = sum(times for _, times in weighted)
    if not weight:
        raise ValueError("there is no mean of no counts")

    def mean(attribute: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        for count, times in weighted:
            for name, value in getattr(count, attribute).items():
                sums[name] = sums.get(name, 0) + value * times
        return {name: value / weight for name, value in sums.items()}

    return FlopCount(mean("modules"), mean("operators"), mean("uncounted"))


def count_flops(model: nn.Module, run: Callable[[], object]) -> FlopCount:
    """Counts the multiply-adds of whatever ``run`` does, module by module of ``model``.

    Args:
        model: whose modules the counts are told apart by.
        run: called once, without gradients. On which device, in training or evaluation mode, and
            whether all layers' heads are computed is up to it.
    """
    counter = _Counter()
    with torch.no_grad(), counter.names_of(model), counter:
        run()
    return FlopCount(dict(counter.modules), dict(counter.operators), dict(counter.uncounted))


def count_detector_flops(
    model: nn.Module, size: tuple[int, int], all_layers: bool = True
) -> FlopCount:
    """Counts the multiply-adds of a detector for one image without padding, in evaluation mode.

    Args:
        model: a :class:`DetectionTransformer`, best on the meta device; or any other Detectron2
            model with data, which then runs its whole inference on a black image.
        size: (height, width) of the image in pixels.
        all_layers: whether the heads of all decoder layers are counted. In training they all run,
            and the published figures contain them; inference needs the last only. Without effect on
            other models.
    """
    height, width = size
    was_training = model.training
    model.eval()
    try:
        if isinstance(model, DetectionTransformer):
            images = torch.zeros(1, 3, height, width, device=model.device)
            return count_flops(model, lambda: model.predict(images, [size], all_layers=all_layers))
        image = torch.zeros(3, height, width)
        return count_flops(model, lambda: model([{"image": image}]))
    finally:
        model.train(was_training)


class _Counter(TorchDispatchMode):
    """Counts the operators that run while it is active, in the innermost module that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self._running = [""]

    def names_of(self, model: nn.Module) -> AbstractContextManager[None]:
        """Follows which module of ``model`` runs."""
        return following(model.named_modules(), self._running.append, self._running.pop)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        if name not in RULES:
            # In inference mode compound operators get here whole.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if name in RULES:
            flops = RULES[name](args, result)
            self.modules[self._running[-1]] += flops
            self.operators[name] += flops
        elif not _is_free(func, name):
            self.uncounted[name] += 1
        return result


def _matrix_product(left: int) -> Rule:
    """Rule of a matrix product whose left factor is the argument of this index."""

    def rule(args: Sequence[Any], result: Tensor) -> int:
        return result.numel() * args[left].shape[-1]

    return rule


def _convolution(args: Sequence[Any], result: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    positions = (x if transposed else result).shape[2:]
    return x.shape[0] * math.prod(positions) * weight.numel()


def _attention(args: Sequence[Any], result: Any) -> int:
    query, key, value = args[:3]
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _normalisation(weight: int) -> Rule:
    """Rule of a normalisation whose weight is the argument of this index."""

    def rule(args: Sequence[Any], result: Any) -> int:
        return args[0].numel() * (4 if args[weight] is None else 5)

    return rule


def _samples(per_element: int) -> Rule:
    """Rule of an operator that reads this many elements for each that it writes."""

    def rule(args: Sequence[Any], result: Tensor) -> int:
        return result.numel() * per_element

    return rule


RULES: dict[str, Rule] = {
    "aten.convolution": _convolution,
    "aten.mm": _matrix_product(0),
    "aten.bmm": _matrix_product(0),
    "aten.mv": _matrix_product(0),
    "aten.dot": _matrix_product(0),
    "aten.addmm": _matrix_product(1),
    "aten.baddbmm": _matrix_product(1),
    "aten.addmv": _matrix_product(1),
    "aten._scaled_dot_product_flash_attention": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_efficient_attention": _attention,
    "aten._scaled_dot_product_cudnn_attention": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten.native_layer_norm": _normalisation(2),
    "aten.native_group_norm": _normalisation(1),
    "aten.grid_sampler_2d": _samples(4),
    "aten.cudnn_grid_sampler": _samples(4),
    "aten.upsample_bilinear2d": _samples(4),
}

# Not counted by convention, besides views and what torch itself tags as elementwise: softmax,
# reductions, sorting, pooling and batch normalisation; then moving and making data.
_FREE_NAMES = """
    _softmax _log_softmax _safe_softmax softmax sum mean amax amin max min any all argmax cumsum
    sort topk nonzero max_pool2d_with_indices _adaptive_avg_pool2d avg_pool2d native_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_no_update
    cudnn_batch_norm floor_divide _embedding_bag _embedding_bag_forward_only

    cat stack clone copy_ _to_copy contiguous _unsafe_view unsqueeze_ index _unsafe_index
    index_select index_put index_put_ _index_put_impl_ gather scatter embedding constant_pad_nd
    flip roll repeat split_with_sizes_copy tril triu upsample_nearest1d upsample_nearest2d
    empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones
    ones_like new_ones full full_like new_full arange linspace eye scalar_tensor fill_ zero_
    lift_fresh item _local_scalar_dense is_same_size _fused_sdp_choice
"""
_FREE = frozenset(_FREE_NAMES.split())


def _is_free(func: Any, name: str) -> bool:
    namespace, _, operator = name.partition(".")
    if namespace == "prim" or func.is_view or torch.Tag.pointwise in func.tags:
        return True
    return namespace == "aten" and operator in _FREE
