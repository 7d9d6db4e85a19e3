"""From backbone features to the feature maps that encoder and decoder work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..layers import SinePositionEncoding, full_precision_dtype, masked_group_norm
from .structures import FeatureMap, padding_mask_at


class ProjectionNeck(nn.Module):
    """Projects backbone features to one width and adds padding masks and position encodings.

    Args:
        in_features: names of the backbone features, finest first; None for all that there are.
        in_channels: channels of each of them; None to find them out, see :meth:`fit`.
        embed_dim: width D of the result.
        position_encoding: makes (B, D, H, W) from a padding mask.
        norm_groups: groups of a group normalisation after each projection; None for none.
        extra_levels: coarser levels more, each by a 3x3 convolution of stride 2: the first one of
            the last of ``in_features``, as it is, any further one of the level before (DINO).
        xavier_init: draw the weights of the convolutions from Xavier's uniform distribution, and
            start their biases at 0 (DINO); else PyTorch's default.
        padding_invariant: keep padding out of the statistics of that normalisation, where the
            published codes count it in.

    Raises:
        ValueError: if ``in_features`` and ``in_channels`` differ in length, or only one is None.
    """

    def __init__(
        self,
        in_features: Sequence[str] | None,
        in_channels: Sequence[int] | None,
        embed_dim: int,
        position_encoding: SinePositionEncoding,
        norm_groups: int | None = None,
        padding_invariant: bool = False,
        extra_levels: int = 0,
        xavier_init: bool = False,
    ) -> None:
        super().__init__()
        self.extra_levels = extra_levels
        self.embed_dim = embed_dim
        self.norm_groups = norm_groups
        self.xavier_init = xavier_init
        self.in_features: list[str] = []
        self.in_channels: list[int] = []
        if in_features is not None and in_channels is not None:
            self._build(in_features, in_channels)
        elif in_features is not None or in_channels is not None:
            raise ValueError(
                f"in_features={in_features} and in_channels={in_channels}: give both, or None for "
                "both to take all features of the backbone"
            )
        self.position_encoding = position_encoding
        self.padding_invariant = padding_invariant

    def fit(self, shapes: Mapping[str, ShapeSpec]) -> None:
        """Take all features of a backbone where none are named; else see whether it has them.

        Args:
            shapes: the ``output_shape()`` of a Detectron2 backbone.

        Raises:
            ValueError: if it has no such features, or of other channels.
        """
        if not self.in_features:
            ordered = sorted(shapes.items(), key=lambda item: item[1].stride)
            self._build([name for name, _ in ordered], [shape.channels for _, shape in ordered])
            return
        for name, channels in zip(self.in_features, self.in_channels, strict=True):
            if name not in shapes or shapes[name].channels not in (channels, None):
                offered = ", ".join(f"{k} ({v.channels} channels)" for k, v in shapes.items())
                raise ValueError(
                    f"model.neck: in_features {self.in_features} with in_channels "
                    f"{self.in_channels} are not what the backbone gives: {offered}. Name these, "
                    "or set both to null to take all"
                )

    def _build(self, in_features: Sequence[str], in_channels: Sequence[int]) -> None:
        """Make the projections."""
        if len(in_features) != len(in_channels):
            raise ValueError(
                f"in_features {list(in_features)} and in_channels {list(in_channels)} "
                "must have the same length"
            )
        self.in_features, self.in_channels = list(in_features), list(in_channels)
        embed_dim = self.embed_dim
        extra_channels = [in_channels[-1], *[embed_dim] * self.extra_levels][: self.extra_levels]
        self.projections = nn.ModuleList(
            [
                *(nn.Conv2d(c, embed_dim, 1) for c in in_channels),
                *(nn.Conv2d(c, embed_dim, 3, stride=2, padding=1) for c in extra_channels),
            ]
        )
        self.norms = nn.ModuleList(
            nn.Identity() if self.norm_groups is None else nn.GroupNorm(self.norm_groups, embed_dim)
            for _ in self.projections
        )
        if self.xavier_init:
            for projection in self.projections:
                convolution = cast(nn.Conv2d, projection)
                nn.init.xavier_uniform_(convolution.weight)
                nn.init.zeros_(cast(Tensor, convolution.bias))

    def forward(
        self,
        features: Mapping[str, Tensor],
        image_sizes: Tensor | None,
        padded_size: tuple[int, int],
    ) -> list[FeatureMap]:
        """Projects one batch.

        Args:
            features: name to (B, C, H, W).
            image_sizes: (B, 2), height and width of each image in pixels, without padding; None if
                no image is padded.
            padded_size: (height, width) of the batch in pixels.

        Returns:
            One feature map per entry of ``in_features``, then the extra levels.
        """
        maps: list[FeatureMap] = []
        inputs = [features[name] for name in self.in_features]
        for level, (projection, norm) in enumerate(zip(self.projections, self.norms, strict=True)):
            last = len(inputs) - 1
            x = projection(inputs[min(level, last)] if level <= last + 1 else maps[-1].features)
            height, width = x.shape[-2:]
            mask = padding_mask_at(image_sizes, padded_size, (height, width))
            if self.padding_invariant and mask is not None and isinstance(norm, nn.GroupNorm):
                x = masked_group_norm(x, norm, mask)
            else:
                x = norm(x)
            cells = mask
            if cells is None:
                cells = torch.zeros(1, height, width, dtype=torch.bool, device=x.device)
            position = self.position_encoding(cells, full_precision_dtype(x.dtype))
            maps.append(FeatureMap(x, position, mask))
        return maps
