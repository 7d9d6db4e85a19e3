"""The one meta-architecture that all methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import full_precision_dtype, resize_pixels
from .criterion import object_normalizer
from .denoising import DenoisingQueries
from .neck import ProjectionNeck
from .structures import Predictions, Targets, padded_image_sizes


@META_ARCH_REGISTRY.register()
class DetectionTransformer(nn.Module):
    """Backbone, neck, encoder and decoder, with a criterion and a post-processor.

    DETR, SAM-DETR and SAP-DETR are this class with other parts. It takes and returns what every
    Detectron2 model does, and can be built from its parts (LazyConfig) or from a yacs config whose
    ``MODEL.LAZY_CONFIG`` names a LazyConfig file.

    Args:
        backbone: images (B, 3, H, W) to a dict of features.
        neck: features to feature maps.
        encoder: feature maps to the memory.
        decoder: memory to predictions.
        denoiser: in training, objects to noised objects for the decoder, which shall find the true
            ones; None for methods without.
        criterion: predictions and targets to a dict of losses.
        postprocessor: predictions to detections.
        num_classes: number of object classes.
        pixel_mean, pixel_std: RGB values that images of 0..255 are normalised with.
        input_format: channel order of the input images, "RGB" or "BGR". The network always sees
            RGB.
        padding_invariant: run the backbone on one unpadded image after another where sizes differ,
            so that no feature depends on how much an image is padded. Encoder and DETR's decoder
            have that property by themselves; other decoders have a switch of the same name. Not
            for training batch norms: they would see one image at a time.
        size_multiple: height and width of a batch are padded to a multiple of this many pixels.
            1 is published. More makes sizes repeat, which compiled networks need
            (:meth:`compile_network`), but shows the backbone, and SAP-DETR's decoder, more padding.

    Raises:
        ValueError: if ``input_format`` is neither, or ``size_multiple`` below 1.
    """

    @configurable  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        criterion: nn.Module,
        postprocessor: nn.Module,
        num_classes: int,
        denoiser: nn.Module | None = None,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        input_format: str = "RGB",
        padding_invariant: bool = False,
        size_multiple: int = 1,
    ) -> None:
        super().__init__()
        if isinstance(backbone, Backbone) and isinstance(neck, ProjectionNeck):
            neck.fit(backbone.output_shape())
        if size_multiple < 1:
            raise ValueError(f"size_multiple must be at least 1, got {size_multiple}")
        if input_format not in ("RGB", "BGR"):
            raise ValueError(f"input_format must be 'RGB' or 'BGR', got {input_format!r}")
        self.backbone = backbone
        self.neck = neck
        self.encoder = encoder
        self.decoder = decoder
        self.denoiser = denoiser
        self.criterion = criterion
        self.postprocessor = postprocessor
        self.num_classes = num_classes
        self.input_format = input_format
        self.padding_invariant = padding_invariant
        self.size_multiple = size_multiple
        self._compiled: Callable[..., Predictions] | None = None
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            # In double precision, so that a model in float64 has the exact values.
            buffer = torch.tensor(list(values), dtype=torch.float64).view(3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read a yacs config; see :func:`sap_detr.config.add_sap_detr_config`."""
        from ..config import model_arguments_from_yacs

        return model_arguments_from_yacs(cfg)

    @property
    def device(self) -> torch.device:
        """Where the model is, and where inputs are sent."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]], num_objects: float | None = None
    ) -> Any:
        """Trains on or detects in a batch.

        Args:
            batched_inputs: per image a dict with ``image`` (3, H, W) of 0..255 in
                ``input_format``; optionally ``resize_to``, the size that ``image``, then uint8,
                still has to get; in training ``instances`` with ``gt_boxes`` and ``gt_classes``;
                in inference optionally ``height`` and ``width``, the size that the detections shall
                refer to.
            num_objects: in training, the number of objects that losses are normalised by, where it
                is not that of the batch (accumulated batches: their mean); see
                :func:`~sap_detr.modeling.criterion.object_normalizer`.

        Returns:
            The dict of losses in training, else a list of ``{"instances": Instances}``.
        """
        images = self.preprocess(batched_inputs)
        if self.training:
            targets = self.collect_targets(batched_inputs)
            denoising = None if self.denoiser is None else self.denoiser(targets, self.num_classes)
            predictions = self.predict(images.tensor, images.image_sizes, denoising=denoising)
            if num_objects is None:
                num_objects = sum(targets.counts)
            normalizer = object_normalizer(num_objects, like=predictions.boxes)
            return self.criterion(predictions, targets, normalizer)
        predictions = self.predict(images.tensor, images.image_sizes, all_layers=False)
        output_sizes = [
            (inputs.get("height", size[0]), inputs.get("width", size[1]))
            for inputs, size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        detections: list[Instances] = self.postprocessor(predictions, output_sizes)
        return [{"instances": instances} for instances in detections]

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalises the images, then pads them with zeros to the largest height and width.

        Images that come with ``resize_to`` (height, width) get that size first.

        Nothing is rounded up to a multiple of a stride: padding beyond need changes predictions.
        Unless ``size_multiple`` says so.
        """
        dtype = self._dtype
        mean, std = self.pixel_mean.to(dtype), self.pixel_std.to(dtype)
        images = []
        for inputs in batched_inputs:
            image = inputs["image"].to(self.device, non_blocking=True)
            if "resize_to" in inputs:
                image = resize_pixels(image, inputs["resize_to"])
            if self.input_format == "BGR":
                image = image.flip(0)
            images.append((image - mean) / std)
        multiple = self.size_multiple if self.size_multiple > 1 else 0
        return ImageList.from_tensors(images, size_divisibility=multiple)

    def predict(
        self,
        images: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        all_layers: bool = True,
        denoising: DenoisingQueries | None = None,
    ) -> Predictions:
        """Run the network.

        Args:
            images: (B, 3, H, W), normalised and padded.
            image_sizes: (height, width) of each image in pixels, without padding.
            all_layers: whether to return the predictions of all decoder layers.
            denoising: what the denoiser made, or None.
        """
        images = _pad_to_multiple(images, _size_divisibility(self.backbone))
        height, width = images.shape[-2:]
        sizes = padded_image_sizes(image_sizes, (height, width), images.device)
        if self.padding_invariant and sizes is not None:
            stride = 2 ** getattr(self.neck, "extra_levels", 0)
            features, padded_size = features_of_unpadded(self.backbone, images, image_sizes, stride)
            return self._decode(features, sizes, padded_size, all_layers, denoising)
        if self.size_multiple > 1 and sizes is None:
            # One graph per padded size when compiled, not one more for full ones.
            sizes = torch.as_tensor([tuple(size) for size in image_sizes]).to(images.device)
        run = self.run_network if self._compiled is None else self._compiled
        return run(images, sizes, all_layers, denoising)

    def compile_network(self, max_graphs: int = 256, **options: Any) -> None:
        """Compiles all between the normalised images and the predictions.

        A new graph is compiled for every size of a batch that comes along, and again for batches
        without padding, and for inference. With a ``size_multiple`` there are few. Batches that
        ``padding_invariant`` takes apart are not compiled.

        Args:
            max_graphs: what comes after so many graphs is not compiled. Raises torch's limits for
                the whole process, which are 8 and 256 otherwise.
            options: of :func:`torch.compile`.
        """
        # Private: torch.compile takes a recompile_limit only in late versions, and none of it
        # raises the accumulated limit.
        limits = torch._dynamo.config
        # The old names, which later versions of torch know as well.
        for name in ("cache_size_limit", "accumulated_cache_size_limit"):
            setattr(limits, name, max(getattr(limits, name), max_graphs))
        self._compiled = torch.compile(self.run_network, **options)

    def run_network(
        self,
        images: Tensor,
        sizes: Tensor | None,
        all_layers: bool = True,
        denoising: DenoisingQueries | None = None,
    ) -> Predictions:
        """Run the network on a batch whose sizes are a tensor: nothing is read on the host.

        This is what is compiled and exported. ``padding_invariant`` and ``size_multiple`` are left
        to :meth:`predict`.

        Args:
            images: (B, 3, H, W), normalised and padded.
            sizes: (B, 2) int64, height and width of each image without padding; None if no image
                is padded.
            all_layers, denoising: see :meth:`predict`.
        """
        height, width = images.shape[-2:]
        return self._decode(self.backbone(images), sizes, (height, width), all_layers, denoising)

    def _decode(
        self,
        features: Mapping[str, Tensor],
        sizes: Tensor | None,
        padded_size: tuple[int, int],
        all_layers: bool,
        denoising: DenoisingQueries | None,
    ) -> Predictions:
        memory = self.encoder(self.neck(features, sizes, padded_size))
        # Decoders of methods without a denoiser know nothing of it.
        extra = {} if denoising is None else {"denoising": denoising}
        result: Predictions = self.decoder(memory, all_layers=all_layers, **extra)
        return result

    def collect_targets(self, batched_inputs: list[dict[str, Any]]) -> Targets:
        """Return the ground truth of a batch, in the dtype and on the device of predictions."""
        return Targets.from_instances(
            [inputs["instances"] for inputs in batched_inputs],
            self.device,
            full_precision_dtype(self._dtype),
        )

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.backbone.parameters()).dtype


def features_of_unpadded(
    backbone: Backbone,
    images: Tensor,
    image_sizes: Sequence[tuple[int, int]],
    stride: int = 1,
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Features that each image would have alone, padded with zeros afterwards.

    In a padded batch the backbone's convolutions read the padding, which biases make non-zero from
    the second layer on. One image at a time is exact for all sizes, spends nothing on padding, and
    costs what batching would have gained.

    Args:
        backbone: images (1, 3, h, w) to a dict of features.
        images: (B, 3, H, W), padded at the bottom and the right.
        image_sizes: (height, width) of each image in pixels, without padding.
        stride: of the coarsest level that is made of the coarsest features.

    Returns:
        Name to (B, C, H / stride, W / stride), and the size in pixels that these maps have: the
        padded one, rounded up to whole cells of the coarsest level.
    """
    multiple = _size_divisibility(backbone)
    single = [
        backbone(_pad_to_multiple(images[i : i + 1, :, :height, :width], multiple))
        for i, (height, width) in enumerate(image_sizes)
    ]
    shapes = backbone.output_shape()
    coarsest = math.lcm(stride * max(shape.stride for shape in shapes.values()), multiple)
    padded_height, padded_width = (math.ceil(n / coarsest) * coarsest for n in images.shape[-2:])
    features = {}
    for name, shape in shapes.items():
        rows, columns = padded_height // shape.stride, padded_width // shape.stride
        features[name] = torch.cat(
            [
                F.pad(x[name], (0, columns - x[name].shape[-1], 0, rows - x[name].shape[-2]))
                for x in single
            ]
        )
    return features, (padded_height, padded_width)


def _size_divisibility(backbone: nn.Module) -> int:
    """Return what heights and widths must be multiples of; Detectron2 says 0 for anything."""
    return max(1, int(getattr(backbone, "size_divisibility", 1)))


def _pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad images (B, 3, H, W) with zeros at the bottom and the right."""
    height, width = images.shape[-2:]
    missing = (-width % multiple, -height % multiple)
    return F.pad(images, (0, missing[0], 0, missing[1])) if any(missing) else images
