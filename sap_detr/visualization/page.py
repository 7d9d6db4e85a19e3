"""Write what detectors do with pictures as one page that needs no network."""

from __future__ import annotations

import base64
import io
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .explanation import Explanation
from .palette import class_color
from .pixels import Pixels, check_image

# Most bytes of a page, which mail and chat still take.
MOST_BYTES = 15_000_000
# Longest side of a picture as it is shown.
_LONG_SIDE = 1280
# Weights are written as whole multiples of this one.
_UNITS = 2**24 - 1
_OF_ALL_QUERIES = (
    *("scores", "classes", "boxes", "points", "entering_points", "entering_boxes"),
    *("cells", "centres", "spreads", "salient"),
)


@dataclass(frozen=True)
class ShownModel:
    """A model of a page.

    Attributes:
        name: what it is called.
        class_names: by class number; None if they are not known.
    """

    name: str
    class_names: Sequence[str | None] | None = None


@dataclass(frozen=True)
class ShownPicture:
    """A picture of a page.

    Attributes:
        name: what it is called.
        image: (H, W, 3), uint8, RGB.
        explanations: one for each model of the page.
    """

    name: str
    image: Pixels
    explanations: Sequence[Explanation]


def write_page(
    pictures: Sequence[ShownPicture],
    models: Sequence[ShownModel],
    out_html: str | os.PathLike[str],
) -> dict[str, int]:
    """Write a page of at most ``MOST_BYTES``: attention is kept of as many queries as fit.

    Args:
        pictures: one or more.
        models: one, or two that stand beside each other.
        out_html: file to write.

    Returns:
        ``bytes`` of the page, ``kept``, the queries whose attention is in it, and ``left_out``,
        those for which there was no room.

    Raises:
        ValueError: there is nothing to show, a picture has not one explanation for each model, or
            there is no room for even one query of each.
    """
    if not pictures or not models:
        raise ValueError("a page needs at least one picture and one model")
    for picture in pictures:
        check_image(picture.image)
        if len(picture.explanations) != len(models):
            raise ValueError(
                f"{picture.name} has {len(picture.explanations)} explanations, "
                f"the page has {len(models)} models"
            )
    views = [[_view(x) for x in picture.explanations] for picture in pictures]
    data: dict[str, Any] = {
        "note": "",
        "models": [
            _model(model, [picture.explanations[i] for picture in pictures])
            for i, model in enumerate(models)
        ],
        "pictures": [
            {
                "name": picture.name,
                "width": picture.image.shape[1],
                "height": picture.image.shape[0],
                "source": _jpeg(picture.image),
                "views": of_picture,
            }
            for picture, of_picture in zip(pictures, views, strict=True)
        ],
    }
    room = MOST_BYTES - len(_fill(data)) - 300
    # The best query of each picture and model, then the second of each ...
    ranked = [
        (rank, found, view)
        for picture, of_picture in zip(pictures, views, strict=True)
        for found, view in zip(picture.explanations, of_picture, strict=True)
        for rank in range(len(found.queries))
    ]
    kept = 0
    for rank, found, view in sorted(ranked, key=itemgetter(0)):
        part = _kept(found, rank)
        room -= len(json.dumps(part)) + 20
        if room < 0:
            break
        view["kept"][int(found.queries[rank])] = part
        kept += 1
    left_out = len(ranked) - kept
    if kept < sum(map(len, views)):
        raise ValueError(
            f"{len(pictures)} pictures do not fit into a page of {MOST_BYTES / 1e6:g} MB: "
            "show fewer"
        )
    if left_out:
        data["note"] = (
            f"Attention is kept of {kept} queries; for {left_out} there was no room in a page of "
            f"{MOST_BYTES / 1e6:g} MB. Fewer pictures leave more."
        )
    page = _fill(data)
    Path(out_html).write_bytes(page)
    return {"bytes": len(page), "kept": kept, "left_out": left_out}


def fixed_point(weights: NDArray[np.floating[Any]]) -> NDArray[np.uint32]:
    """Round weights whose sum over the last axis is 1 to multiples of 1 / 16777215 with that sum.

    The largest remainders are rounded up, so that no weight is off by more than one multiple.
    """
    scaled = weights.astype(np.float64)
    scaled *= _UNITS / scaled.sum(-1, keepdims=True)
    whole = np.floor(scaled)
    missing = _UNITS - whole.sum(-1, keepdims=True)
    rank = (whole - scaled).argsort(-1, kind="stable").argsort(-1, kind="stable")
    rounded: NDArray[np.uint32] = (whole + (rank < missing)).astype(np.uint32)
    return rounded


def _pack(array: NDArray[Any] | None, weights: bool = False) -> dict[str, Any] | None:
    """Pack an array, or weights that sum up to 1 over the last axis, for ``unpack`` of the page."""
    if array is None:
        return None
    numbers = fixed_point(array) if weights else array.astype("<f4")
    num_bytes = 3 if weights else 4
    raw = np.frombuffer(numbers.astype("<u4" if weights else "<f4").tobytes(), np.uint8)
    planes = raw.reshape(-1, 4)[:, :num_bytes].T
    return {
        "shape": list(array.shape),
        "bytes": num_bytes,
        "unit": 1 / _UNITS if weights else None,
        "data": base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode(),
    }


def _view(found: Explanation) -> dict[str, Any]:
    """Return what the page has of a picture and a model, but for attention and samples."""
    sizes = [x.shape[-2:] for x in found.attention or ()]
    encoder = found.encoder
    return {
        **{name: _pack(getattr(found, name)) for name in _OF_ALL_QUERIES},
        "layers": len(found.boxes),
        "heads": found.self_attention.shape[2],
        "first": int(found.queries[0]),
        "read_levels": [sorted(set(sizes), reverse=True).index(size) for size in sizes],
        "sample_levels": None if found.sample_levels is None else found.sample_levels.tolist(),
        "encoder": encoder
        and {
            "places": _pack(encoder.places),
            "where": _pack(encoder.samples[..., :2]),
            "weights": _pack(encoder.samples[..., 2], weights=True),
        },
        "detected": [
            [int(query), int(number), round(float(score), 4)]
            for query, number, score in zip(
                found.detected, found.detected_classes, found.detected_scores, strict=True
            )
        ],
        "kept": {},
    }


def _kept(found: Explanation, index: int) -> dict[str, Any]:
    """Return attention and samples of the query with this place in ``queries``."""
    part: dict[str, Any] = {"self_attention": _pack(found.self_attention[:, index], weights=True)}
    if found.attention is not None:
        maps = [x[index] for x in found.attention]
        flat = [_pack(x.reshape(len(x), -1), weights=True) for x in maps]
        part["attention"] = [
            packed | {"shape": list(x.shape)}
            for packed, x in zip(flat, maps, strict=True)
            if packed
        ]
    if found.samples is not None:
        part["places"] = _pack(found.samples[:, index, ..., :2])
        part["weights"] = _pack(found.samples[:, index, ..., 2], weights=True)
    return part


def _model(model: ShownModel, explanations: Sequence[Explanation]) -> dict[str, Any]:
    count = len(model.class_names or ()) or 1 + max(int(x.classes.max()) for x in explanations)
    return {
        "name": model.name,
        "method": explanations[0].method,
        "classes": list(model.class_names or ()),
        "colors": [class_color(number) for number in range(count)],
    }


def _jpeg(image: Pixels) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((_LONG_SIDE, _LONG_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _fill(data: dict[str, Any]) -> bytes:
    """Return the page with this data."""
    source = files(__package__) / "viewer"
    parts = {
        "style": (source / "viewer.css").read_text(encoding="utf-8"),
        "script": (source / "viewer.js").read_text(encoding="utf-8"),
        # The last, so that nothing is put into it. "<" would end the script that it stands in.
        "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    page = (source / "page.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page.encode()
