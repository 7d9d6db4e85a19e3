"""Writes a folder in COCO format (``train.json`` with ``train/``, ``val``) in other formats."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Coco = dict[str, Any]


def _read(folder: Path) -> dict[str, Coco]:
    splits = (split for split in ("train", "val") if (folder / f"{split}.json").is_file())
    return {split: json.loads((folder / f"{split}.json").read_text()) for split in splits}


def _boxes(content: Coco, image: Coco) -> list[tuple[str, list[float]]]:
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    return [(names[a["category_id"]], a["bbox"]) for a in found]


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    return target


def write_yolo(folder: Path, target: Path) -> None:
    names: list[str] = []
    for split, content in _read(folder).items():
        names = names or [category["name"] for category in content["categories"]]
        for image in content["images"]:
            width, height = image["width"], image["height"]
            lines = [
                f"{names.index(name)} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} "
                f"{w / width:.6f} {h / height:.6f}\n"
                for name, (x, y, w, h) in _boxes(content, image)
            ]
            name = image["file_name"]
            _copy(folder / split / name, target / "images" / split / name)
            label = (target / "labels" / split / name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(lines))
    text = f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n"
    (target / "data.yaml").write_text(text)


def write_voc(folder: Path, target: Path) -> None:
    for split, content in _read(folder).items():
        stems = []
        for image in content["images"]:
            # Both splits lie in one folder, so that names of the two must differ.
            name = f"{split}_{image['file_name']}"
            copied = _copy(folder / split / image["file_name"], target / "JPEGImages" / name)
            stems.append(copied.stem)
            lines = ["<annotation>", f"<filename>{name}</filename>", "<size>"]
            lines += [f"<{side}>{image[side]}</{side}>" for side in ("width", "height")]
            lines += ["<depth>3</depth>", "</size>"]
            for class_name, (x, y, w, h) in _boxes(content, image):
                corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
                lines += ["<object>", f"<name>{class_name}</name>", "<bndbox>"]
                lines += [f"<{key}>{value}</{key}>" for key, value in corners.items()]
                lines += ["</bndbox>", "</object>"]
            file = target / "Annotations" / f"{copied.stem}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join([*lines, "</annotation>\n"]))
        names_file = target / f"ImageSets/Main/{split}.txt"
        names_file.parent.mkdir(parents=True, exist_ok=True)
        names_file.write_text("\n".join(stems))


def write_one_json(folder: Path, target: Path) -> None:
    whole: Coco = {"info": {}, "images": [], "annotations": []}
    for split, content in _read(folder).items():
        whole["categories"] = content["categories"]
        ids = {}
        for image in content["images"]:
            name = f"{split}_{image['file_name']}"
            _copy(folder / split / image["file_name"], target / "images" / name)
            ids[image["id"]] = len(whole["images"]) + 1
            whole["images"].append({**image, "id": ids[image["id"]], "file_name": name})
        for annotation in content["annotations"]:
            number = len(whole["annotations"]) + 1
            image_id = ids[annotation["image_id"]]
            whole["annotations"].append({**annotation, "id": number, "image_id": image_id})
    (target / "annotations.json").write_text(json.dumps(whole))


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "yolo": write_yolo,
    "voc": write_voc,
    "json": write_one_json,
}
