"""Multiply-adds of a model, by torch's formulas and ours, while it runs on the meta device.

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

Why not Detectron2's FlopCountAnalysis: it traces with torch.jit, and on the meta device tracing
fails (DETR with ResNet-50, torch.jit: "cond must be a bool, but got a Tensor"). On real tensors
the table of 100 image sizes takes over half an hour, on meta tensors minutes. A test holds both to
the same total where both count.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..modeling import DetectionTransformer
from .parameters import part_of
from .timing import PartTimer

Shape = Sequence[int]


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

    modules: Mapping[str, float]
    operators: Mapping[str, float]
    uncounted: Mapping[str, float]

    @property
    def total(self) -> float:
        """Multiply-adds of the model."""
        return sum(self.modules.values())

    def by_part(self, depth: int = 1) -> dict[str, float]:
        """Multiply-adds of the parts of the model, as :func:`count_parameters_by_part` has them.

        Raises:
            ValueError: if ``depth`` is less than 1.
        """
        parts: defaultdict[str, float] = defaultdict(float)
        for name, flops in self.modules.items():
            parts[part_of(name, depth)] += flops
        return dict(parts)


def mean_flops(counts: Sequence[FlopCount]) -> FlopCount:
    """Return the mean of counts, at least one."""

    def mean(of: str) -> dict[str, float]:
        mappings: list[Mapping[str, float]] = [getattr(count, of) for count in counts]
        names = dict.fromkeys(itertools.chain.from_iterable(mappings))
        return {name: sum(m.get(name, 0) for m in mappings) / len(mappings) for name in names}

    return FlopCount(mean("modules"), mean("operators"), mean("uncounted"))


def count_flops(model: nn.Module, run: Callable[[], object]) -> FlopCount:
    """Count the multiply-adds of whatever ``run`` does, module by module of ``model``.

    Args:
        model: whose modules the counts are told apart by.
        run: called once, without gradients. On which device, in training or evaluation mode, and
            whether all layers' heads are computed is up to it.
    """
    counter = _Counter()
    # Parts are told apart by multiply-adds instead of seconds.
    timer = PartTimer(lambda: counter.operators.total() / PER_MULTIPLY_ADD)
    with torch.no_grad(), timer.follow(model.named_modules()), counter:
        modules = timer.run(run, own="")
    return FlopCount(
        {name: flops for name, flops in modules.items() if flops},
        {name: flops / PER_MULTIPLY_ADD for name, flops in counter.operators.items()},
        dict(counter.uncounted),
    )


def count_detector_flops(
    model: nn.Module, size: tuple[int, int], all_layers: bool = True
) -> FlopCount:
    """Count the multiply-adds of a detector for one image without padding, in evaluation mode.

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


# torch's formulas have two operations for each multiply-add; so do those below.
PER_MULTIPLY_ADD = 2


def _vector_product(left: Shape, right: Shape, *args: Any, **kwargs: Any) -> int:
    return PER_MULTIPLY_ADD * math.prod(left)


def _added_vector_product(bias: Shape, left: Shape, *args: Any, **kwargs: Any) -> int:
    return PER_MULTIPLY_ADD * math.prod(left)


def _attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    """Both products; torch's own formula is not there for every kernel."""
    pairs = math.prod(query[:-1]) * key[-2]
    return PER_MULTIPLY_ADD * pairs * (query[-1] + value[-1])


def _layer_norm(x: Shape, shape: Any, weight: Shape | None, *args: Any, **kwargs: Any) -> int:
    return PER_MULTIPLY_ADD * math.prod(x) * (4 if weight is None else 5)


def _group_norm(x: Shape, weight: Shape | None, *args: Any, **kwargs: Any) -> int:
    return PER_MULTIPLY_ADD * math.prod(x) * (4 if weight is None else 5)


def _bilinear_samples(*args: Any, out_shape: Shape, **kwargs: Any) -> int:
    return PER_MULTIPLY_ADD * 4 * math.prod(out_shape)


_FORMULAS_BY_NAME: dict[str, Callable[..., int]] = {
    "mv": _vector_product,
    "dot": _vector_product,
    "addmv": _added_vector_product,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "grid_sampler_2d": _bilinear_samples,
    "cudnn_grid_sampler": _bilinear_samples,
    "upsample_bilinear2d": _bilinear_samples,
}
# What FlopCounterMode lacks: operator to its operations, given shapes. Some releases of torch lack
# some of the operators.
FORMULAS: dict[Any, Callable[..., int]] = {
    getattr(torch.ops.aten, name): formula
    for name, formula in _FORMULAS_BY_NAME.items()
    if hasattr(torch.ops.aten, name)
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


class _Counter(TorchDispatchMode):
    """Counts operations by operator, and calls of those that nothing is known about.

    FlopCounterMode itself is not used: it lists no calls, and its hooks fail on a parameter that a
    module gets as its input.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self._formulas = FlopCounterMode(custom_mapping=FORMULAS).flop_registry

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, operator = kwargs or {}, func.overloadpacket
        with self:
            # In inference mode, what consists of other operators arrives here as a whole.
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if (formula := self._formulas.get(operator)) is not None:
            self.operators[str(operator)] += formula(*args, **kwargs, out_val=result)
        elif not _is_free(func, str(operator)):
            self.uncounted[str(operator)] += 1
        return result
