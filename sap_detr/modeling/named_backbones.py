"""Backbones by their names in timm and torchvision; what their features are is found out."""

from __future__ import annotations

import difflib
import math
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

# Images of this size are enough to find out strides and channels.
_PROBE = 64


class NamedBackbone(Backbone):  # type: ignore[misc]
    """A network of another library, with features by stride: ``stride8``, ``stride16``, ...

    Heights and widths must be multiples of :attr:`size_divisibility`; the meta-architecture pads
    images to them, and masks that.

    Attributes:
        body: the network, whose parameters keep the names that they have in its library.
        has_windows: whether it cuts features into windows, as Swin does: how, depends on the size
            of the images, so a traced program is of one size.
    """

    body: Any

    def __init__(self, name: str, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.name = name
        self.has_windows = "swin" in name
        self._channels = dict(channels)

    @property
    def size_divisibility(self) -> int:
        """What heights and widths must be multiples of."""
        return math.lcm(*self._channels)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of the features, the finest first."""
        return {
            f"stride{stride}": ShapeSpec(channels=channels, stride=stride)
            for stride, channels in sorted(self._channels.items())
        }

    def own_state(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return weights of the library for this network by the names in this module.

        Args:
            state: as the library saves it; parts that are no longer there, such as the classifier,
                are left out.

        Returns:
            {} if it is of something else.
        """
        return {f"body.{name}": state[name] for name in self.body.state_dict() if name in state}

    @abstractmethod
    def parameter_depths(self) -> dict[str, int]:
        """Return the layer that each trained parameter is of: 0 for the first, by name."""

    def _finish(self, frozen_stages: int, frozen_norms: bool, stages: Mapping[str, int]) -> None:
        """Freeze what is not to be trained, and lay out convolutions as they are fastest."""
        most = max(stages.values(), default=0)
        if not 0 <= frozen_stages <= most + 1:
            raise ValueError(f"frozen_stages must be from 0 to {most + 1}, got {frozen_stages}")
        if frozen_norms:
            self.body = FrozenBatchNorm2d.convert_frozen_batchnorm(self.body)
        for name, parameter in self.body.named_parameters():
            if stages.get(name, 0) < frozen_stages:
                parameter.requires_grad_(False)
        self.body.to(memory_format=torch.channels_last)

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height % self.size_divisibility or width % self.size_divisibility:
            raise ValueError(
                f"{self.name} takes images whose height and width are multiples of "
                f"{self.size_divisibility}, got {height} x {width}"
            )


class TimmBackbone(NamedBackbone):
    """A network of timm 1.0: ConvNeXt, Swin, ViT and whatever else gives its intermediate results.

    Its weights are given as ``train.init_checkpoint``: a file of timm's, or ``timm://NAME`` for
    timm's own.

    Args:
        name: of timm's list, without the tag of its weights, such as "convnext_tiny".
        strides: of the features to return; None for the coarsest alone. A ViT has one stride, that
            of its patches.
        frozen_stages: of the stem and the stages, or of the embedding and the blocks of a ViT, so
            many are not trained.
        frozen_norms: let batch norms keep the statistics and factors of their weights.
        drop_path: rate of the stochastic depth in training.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such network, or it has no features of a stride.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] | None = None,
        frozen_stages: int = 0,
        frozen_norms: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                f"the backbone {name} needs a package: pip install 'sap-detr[timm]'"
            ) from error
        _check_name(f"timm {timm.__version__}", name, timm.list_models())
        body = _create(timm, name, drop_path)
        if not hasattr(body, "forward_intermediates"):
            raise ValueError(f"timm's {name} does not give its intermediate results")
        reductions = [entry["reduction"] for entry in body.feature_info]
        places = {stride: i for i, stride in enumerate(reductions)}
        chosen = sorted({max(places)} if strides is None else strides)
        _check_strides(name, chosen, places)
        indices = [places[stride] for stride in chosen]
        channels = [body.feature_info[i]["num_chs"] for i in indices]
        super().__init__(name, dict(zip(chosen, channels, strict=True)))
        # Only transformers of one stride have a norm that is meant for their features.
        self._is_plain = len(places) == 1
        body.prune_intermediate_layers(indices, prune_norm=not self._is_plain, prune_head=True)
        self._indices = indices
        if frozen_norms:
            # Norms of timm may hold the activation behind them, which Detectron2's would drop.
            layers: Any = timm.layers
            body = layers.freeze_batch_norm_2d(body)
        self.body = _with_fixed_padding(timm, body)
        self._finish(frozen_stages, frozen_norms, self._groups(coarse=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W) to features (B, C, H / stride, W / stride)."""
        self._check_size(images)
        features = self.body.forward_intermediates(
            images,
            indices=self._indices,
            norm=self._is_plain,
            intermediates_only=True,
            output_fmt="NCHW",
        )
        return dict(zip(self.output_shape(), features, strict=True))

    def own_state(self, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """See :class:`NamedBackbone`; files of the networks' authors are read as timm does."""
        found = super().own_state(state)
        needed = self.state_dict()
        if all(name in found and found[name].shape == needed[name].shape for name in needed):
            return found
        # Position encodings of other sizes are resampled by it, too.
        translate = getattr(sys.modules[type(self.body).__module__], "checkpoint_filter_fn", None)
        if translate is None:
            return found
        try:
            return super().own_state(translate(dict(state), self.body))
        except (AttributeError, KeyError, RuntimeError, ValueError):
            return found  # a file of something else

    def parameter_depths(self) -> dict[str, int]:
        """See :class:`NamedBackbone`."""
        return {f"body.{name}": depth for name, depth in self._groups(coarse=False).items()}

    def _groups(self, coarse: bool) -> dict[str, int]:
        from timm.models import group_parameters

        matcher = self.body.group_matcher(coarse=coarse)
        groups: dict[str, int] = group_parameters(self.body, matcher, reverse=True)
        return groups


class TorchvisionBackbone(NamedBackbone):
    """A network of torchvision whose parts follow one another: ConvNeXt, Swin, EfficientNet, ...

    Its weights are given as ``train.init_checkpoint``: a file of torchvision's.

    Args:
        name: of torchvision's list, such as "convnext_tiny" or "swin_t".
        strides, frozen_stages, frozen_norms: see :class:`TimmBackbone`; stages are the parts in
            ``features``.

    Raises:
        ValueError: torchvision has no such network, or it has no features of a stride.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] | None = None,
        frozen_stages: int = 0,
        frozen_norms: bool = True,
    ) -> None:
        known = torchvision.models.list_models(module=torchvision.models)
        _check_name("torchvision", name, known)
        network = torchvision.models.get_model(name, weights=None)
        if not isinstance(getattr(network, "features", None), nn.Sequential):
            raise ValueError(
                f"torchvision's {name} has no sequence of features: take timm's, TimmBackbone"
            )
        # With Swin's (B, H, W, C) inside.
        last = "swin" in name
        body: Any = nn.Module()
        body.features = network.features
        probe = torch.zeros(1, 3, _PROBE, _PROBE, device=next(body.parameters()).device)
        places: dict[int, int] = {}
        widths: dict[int, int] = {}
        with torch.no_grad():
            for index, part in enumerate(body.features.eval()):
                probe = part(probe)
                shape = probe.permute(0, 3, 1, 2).shape if last else probe.shape
                stride = _PROBE // shape[-1]
                places[stride], widths[stride] = index, shape[1]
        chosen = sorted({max(places)} if strides is None else strides)
        _check_strides(name, chosen, places)
        super().__init__(name, {stride: widths[stride] for stride in chosen})
        body.features = body.features[: max(places[stride] for stride in chosen) + 1].train()
        self._taken = {places[stride]: f"stride{stride}" for stride in chosen}
        self.body = body
        self._finish(frozen_stages, frozen_norms, self._parts())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W) to features (B, C, H / stride, W / stride)."""
        self._check_size(images)
        found = {}
        x = images
        for index, part in enumerate(self.body.features):
            x = part(x)
            if index in self._taken:
                found[self._taken[index]] = x.permute(0, 3, 1, 2) if self.has_windows else x
        return found

    def parameter_depths(self) -> dict[str, int]:
        """See :class:`NamedBackbone`."""
        return {f"body.{name}": part for name, part in self._parts().items()}

    def _parts(self) -> dict[str, int]:
        return {name: int(name.split(".")[1]) for name, _ in self.body.named_parameters()}


class _PaddedConv2d(nn.Conv2d):
    """TensorFlow's "same" padding of inputs whose sides are multiples of the stride.

    It is then the same for all of them, while timm computes it from each size; of a traced program
    that makes a formula that grows from layer to layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        sides: list[int] = []
        for kernel, stride, dilation in zip(
            reversed(self.kernel_size), reversed(self.stride), reversed(self.dilation), strict=True
        ):
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            sides += [total // 2, total - total // 2]
        return super().forward(F.pad(input, sides))


def _with_fixed_padding(timm: Any, body: nn.Module) -> nn.Module:
    for parent in list(body.modules()):
        for name, conv in parent.named_children():
            if isinstance(conv, timm.layers.Conv2dSame):
                padded = skip_init(
                    _PaddedConv2d,
                    conv.in_channels,
                    conv.out_channels,
                    conv.kernel_size,
                    conv.stride,
                    dilation=conv.dilation,
                    groups=conv.groups,
                    bias=conv.bias is not None,
                )
                padded.weight, padded.bias = conv.weight, conv.bias
                setattr(parent, name, padded)
    return body


def _create(timm: Any, name: str, drop_path: float) -> Any:
    """Create a network of timm that takes images of all sizes."""
    options: dict[str, Any] = {"num_classes": 0}
    if drop_path:
        options["drop_path_rate"] = drop_path
    for sizes in ({"dynamic_img_size": True}, {"strict_img_size": False}):
        try:
            return timm.create_model(name, **options, **sizes)
        except TypeError:
            continue  # it knows no such option
    return timm.create_model(name, **options)


def _check_name(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise ValueError(f"{library} has no network {name!r}{hint}")


def _check_strides(name: str, wanted: Sequence[int], found: Mapping[int, int]) -> None:
    missing = sorted(set(wanted) - found.keys())
    if missing or not wanted:
        raise ValueError(
            f"{name} has features of strides {sorted(found)}, not of {missing or 'none'}"
        )
