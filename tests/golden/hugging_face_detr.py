"""DETR as Hugging Face's transformers compute it: makes `recorded/hugging_face_detr.json`.

    python tests/golden/hugging_face_detr.py        # where transformers and timm are installed

The file has the names and shapes of small models of random weights as transformers writes them, and
what they find in a batch of two images, one of them padded, in float64. Values come from the
names, so that they need not be kept.
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).parent / "recorded" / "hugging_face_detr.json"
# Height and width; the batch is as large as the largest of each.
SIZES = ((96, 128), (80, 104))
COMMON = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 7,
    "num_labels": 5,
}


def values_of(name: str, shape: list[int]) -> torch.Tensor:
    """Random values of a size at which signals neither vanish nor explode."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    values = random.standard_normal(shape)
    if name.endswith("running_var"):
        values = 0.5 + random.random_sample(shape)
    elif len(shape) > 1:
        values *= math.sqrt(2 / math.prod(shape[1:]))
    elif name.endswith("weight"):  # of a norm
        values = 1 + 0.1 * values
    else:
        values *= 0.1
    return torch.from_numpy(values)


def batch() -> torch.Tensor:
    """Normalised images (2, 3, H, W), zero where they are padded."""
    height, width = (max(sides) for sides in zip(*SIZES, strict=True))
    images = torch.zeros(len(SIZES), 3, height, width, dtype=torch.float64)
    for index, (own_height, own_width) in enumerate(SIZES):
        part = values_of(f"image {index}", [3, own_height, own_width])
        images[index, :, :own_height, :own_width] = part / part.std()
    return images


def record(changes: dict[str, object]) -> dict[str, object]:
    """Run transformers' own class with weights from a file."""
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import DetrConfig, DetrForObjectDetection

    model = DetrForObjectDetection(DetrConfig(**COMMON, **changes))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = f"{folder}/model.safetensors"
        with safe_open(file, "pt") as opened:
            names = opened.keys()
            shapes = {name: opened.get_slice(name).get_shape() for name in names}
        state = {name: values_of(name, shape) for name, shape in shapes.items()}
        save_file(state, file, {"format": "pt"})
        model = DetrForObjectDetection.from_pretrained(folder, dtype=torch.float64).eval()
    images = batch()
    mask = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.long)
    for index, (height, width) in enumerate(SIZES):
        mask[index, :height, :width] = 1
    with torch.no_grad():
        found = model(pixel_values=images, pixel_mask=mask)
    outputs = {"logits": found.logits.tolist(), "boxes": found.pred_boxes.tolist()}
    return {"shapes": dict(sorted(shapes.items())), **outputs}


def main() -> None:
    """Record all forms."""
    from transformers import ResNetConfig, __version__

    timm = {"use_timm_backbone": True, "backbone": "resnet50", "use_pretrained_backbone": False}
    own = ResNetConfig(out_features=["stage4"])
    forms = {
        "hugging_face_detr": timm,
        "hugging_face_detr dc5": {**timm, "dilation": True},
        "hugging_face_detr_resnet": {
            "use_timm_backbone": False,
            "backbone": None,
            "backbone_config": own,
            "use_pretrained_backbone": False,
        },
    }
    recorded = {form: record(changes) for form, changes in forms.items()}
    FILE.write_text(json.dumps({"transformers": __version__, **recorded}) + "\n")


if __name__ == "__main__":
    main()
