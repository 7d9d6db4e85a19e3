#!/usr/bin/env python
"""Detect in a picture with an exported ONNX file: numpy, Pillow and ONNX Runtime, no torch.

python detect_onnx.py detector.onnx photo.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

THRESHOLD = 0.5


def main(model: str, picture: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = {
        name.removeprefix("sap_detr."): json.loads(text)
        for name, text in session.get_modelmeta().custom_metadata_map.items()
        if name.startswith("sap_detr.")
    }
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")

    # The short side gets its length, unless the long side would exceed its limit.
    short, longest = about["short_side"], about["max_size"]
    low, high = sorted(image.size)
    if longest is not None and high / low * short > longest:
        short = max(1, round(longest * low / high))
    size = tuple(short if side == low else int(short * high / low) for side in image.size)
    # A file of one size takes what fits into it, in the upper left corner.
    height, width = about["size"] or size[::-1]
    fit = min(1, width / size[0], height / size[1])
    size = tuple(max(1, int(side * fit)) for side in size)
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    images = np.zeros((1, 3, height, width), np.uint8)
    images[0, :, : size[1], : size[0]] = pixels

    inputs = {"images": images, "sizes": np.array([pixels.shape[1:]], np.int64)}
    [boxes], [scores], [classes] = session.run(["boxes", "scores", "classes"], inputs)
    boxes = boxes * np.tile(np.array(image.size) / size, 2)
    names = about["class_names"] or range(classes.max() + 1)
    for i in np.flatnonzero(scores >= THRESHOLD):
        print(names[classes[i]], f"{scores[i]:.3f}", *(f"{x:.1f}" for x in boxes[i]))


if __name__ == "__main__":
    main(*sys.argv[1:])
