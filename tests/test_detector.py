"""All kinds of pictures give the same boxes, tiles each object once, and AP is as evaluated."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bright_squares import BrightSquares
from detectron2.config import LazyConfig, instantiate
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sap_detr.checkpoint import CheckpointError, save_checkpoint_file
from sap_detr.config import load_config, prepare_data
from sap_detr.data import PixelRange, build_test_augmentations
from sap_detr.data.shapes.drawing import draw_image
from sap_detr.detector import Detector, to_coco, to_supervision
from sap_detr.engine import (
    DetectionTrainer,
    ModelDescription,
    NonFiniteDetectionsError,
    build_model,
)

NAMES = ["red", "green", "blue"]


def canvas(height, width, *squares):
    """Dark, with squares (x, y, side, class)."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, side, channel in squares:
        image[y : y + side, x : x + side] = 40
        image[y : y + side, x : x + side, channel] = 200
    return image


PICTURE = canvas(60, 90, (5, 10, 20, 0), (50, 30, 12, 1), (70, 5, 8, 2))
BOXES = [[70, 5, 78, 13], [50, 30, 62, 42], [5, 10, 25, 30]]


@pytest.fixture
def detector():
    return Detector.from_model(BrightSquares(), class_names=NAMES)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.png", ".hidden.png"):
        Image.fromarray(PICTURE).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deeper").mkdir()
    Image.fromarray(PICTURE).save(tmp_path / "deeper" / "c.bmp")
    return tmp_path


CHW = torch.from_numpy(PICTURE).permute(2, 0, 1)


@pytest.mark.parametrize(
    "image",
    [
        PICTURE,
        PICTURE[:, ::-1][:, ::-1],
        np.dstack([PICTURE, np.full((60, 90), 255, np.uint8)]),
        PICTURE.astype(np.uint16) * 256,
        PICTURE.astype(np.uint16) * 257,
        PICTURE / 255,
        (PICTURE / 255).astype(np.float32),
        CHW,
        CHW.to(torch.float64) / 255,
        (CHW / 255).requires_grad_(),
        Image.fromarray(PICTURE),
        Image.fromarray(PICTURE).convert("RGBA"),
    ],
    ids=lambda image: f"{type(image).__name__} {getattr(image, 'dtype', '')}",
)
def test_all_kinds_of_input_give_the_same_boxes(image, detector):
    [found] = detector(image, threshold=0)
    assert found.pred_boxes.tensor.tolist() == BOXES
    assert found.pred_classes.tolist() == [2, 1, 0]
    assert found.image_size == (60, 90)
    [shown] = detector.stream(image)
    assert (shown.image == PICTURE).all()
    assert shown.image.dtype == np.uint8


def test_a_model_of_ours_sees_the_same_pixels_of_all(tiny_config, folder):
    tiny_config.model.num_classes = 3
    augmentations = build_test_augmentations(64, 96)
    detector = Detector.from_model(build_model(tiny_config), augmentations, NAMES)
    kinds = [folder / "a.png", Image.fromarray(PICTURE), PICTURE, PICTURE / 255, CHW]
    first, *others = detector(kinds, threshold=0)
    assert len(first) == 8
    for other in others:
        assert torch.equal(other.pred_boxes.tensor, first.pred_boxes.tensor)
        assert torch.equal(other.scores, first.scores)
    for batched in detector(kinds, threshold=0, batch_size=4):
        torch.testing.assert_close(batched.pred_boxes.tensor, first.pred_boxes.tensor)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1)])
def test_grey(shape, dtype, detector):
    image = np.zeros(shape, np.uint8)
    image[10:20, 5:25] = 200
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    [found] = detector((image * float(scale)).astype(dtype))
    assert found.pred_boxes.tensor.tolist() == [[5, 10, 25, 20]]


def test_a_trained_model_finds_the_same_in_all_depths_of_one_picture(tmp_path):
    picture, _ = draw_image(np.random.RandomState(5), 64, 64, max_objects=4)
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    Image.fromarray(grey).save(tmp_path / "8bit.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16bit.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "float.tiff")
    names = ["8bit.png", "16bit.png", "float.tiff"]
    first, *others = Detector("small_sap_detr")([tmp_path / name for name in names])
    assert len(first)
    for other in others:
        assert other.pred_classes.tolist() == first.pred_classes.tolist()
        torch.testing.assert_close(other.scores, first.scores, rtol=0, atol=1e-3)
        boxes = other.pred_boxes.tensor, first.pred_boxes.tensor
        torch.testing.assert_close(*boxes, rtol=0, atol=1e-3)


def test_values_of_other_ranges(detector):
    [found] = detector(PICTURE.astype(np.float32), value_range=(0, 255))
    assert found.pred_boxes.tensor.tolist() == BOXES
    detector.pixel_range = PixelRange("bits", 12)
    [found] = detector(PICTURE.astype(np.uint16) * 16)
    assert found.pred_boxes.tensor.tolist() == BOXES


def test_files_folders_globs_and_lists(detector, folder):
    def names(images):
        return [found.name.removeprefix(f"{folder}/") for found in detector.stream(images)]

    assert names(str(folder / "a.png")) == ["a.png"]
    assert names(folder) == ["a.png", "b.png"]
    assert names(f"{folder}/[b-z]*") == ["b.png"]
    assert names(f"{folder}/**/*.*") == ["a.png", "b.png", "deeper/c.bmp"]
    assert names([folder, PICTURE, folder / "b.png"]) == ["a.png", "b.png", "image 2", "b.png"]
    assert names([]) == []


@pytest.mark.parametrize(
    "image, message",
    [
        ("nowhere.jpg", "no file or folder nowhere.jpg; taken are a file"),
        ("nowhere/*.jpg", "no image like nowhere"),
        (None, "got a builtins.NoneType as image; taken are a file"),
        ([[PICTURE]], "a list of images has a list in it"),
        (PICTURE.astype(np.int64), r"int64 \(60, 90, 3\); taken are uint8, uint16 and floating"),
        (PICTURE > 0, "bool"),
        (PICTURE.astype(np.float32), r"from 0 to 200; taken are .*value_range=\(0\.0, 1\.0\)"),
        (PICTURE / 255 - 0.1, "from -0.1 to"),
        (np.full((4, 4), np.nan), "finite"),
        (PICTURE.transpose(2, 0, 1), r"channels come first, give array\.transpose\(1, 2, 0\)"),
        (PICTURE[None], r"list\(array\)"),
        (PICTURE[:, :, :2], r"\(60, 90, 2\); taken are \(H, W\) or"),
        (PICTURE[:0], "empty"),
        (CHW[None], r"list\(tensor\)"),
        (CHW.permute(1, 2, 0), "channels come last"),
        (CHW.bool(), "bool"),
    ],
    ids=str,
)
def test_wrong_input_is_told_with_what_is_taken(image, message, detector):
    with pytest.raises(ValueError, match=message):
        detector(image)


def test_the_bad_one_of_several_is_named(detector, folder):
    with pytest.raises(ValueError, match=r"image 2: got an image of bool"):
        detector([folder, PICTURE > 0])
    (folder / "c.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"c\.png: can't be used as an image"):
        detector(folder)
    detector.predictor.model.grow = np.nan
    with pytest.raises(NonFiniteDetectionsError, match=r"a\.png: 3 of 3 detections"):
        detector(folder / "a.png")


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.5},
        {"threshold": None},
        {"max_detections": 0},
        {"max_detections": 2.5},
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"value_range": (1, 1)},
        {"value_range": (0, np.inf)},
        {"value_range": (0, None)},
        {"value_range": 3},
        {"tile": 32},
        {"tile": (64, 64)},
        {"tile": (64, 64, 64)},
        {"tile": (64.0, 64.0, 8.0)},
        {"classes": ["pink"]},
        {"classes": [3]},
        {"classes": [-1]},
        {"classes": [True]},
        {"classes": 3},
    ],
    ids=str,
)
def test_options_without_sense_are_refused_before_anything_is_read(options, detector):
    [(name, given)] = options.items()
    with pytest.raises(ValueError, match=name.removesuffix("es")) as error:
        detector.stream("nowhere.jpg", **options)
    shown = given[0] if name == "classes" and given != 3 else given
    assert f"{shown!r}" in str(error.value)
    assert "\n" not in str(error.value)


def test_threshold_classes_number_and_clipping(detector):
    def found(**options):
        return detector(PICTURE, **options)[0].pred_boxes.tensor.tolist()

    assert found(threshold=0.98) == BOXES[:2]
    assert found(classes=["green", 0]) == BOXES[1:]
    assert found(classes="blue") == BOXES[:1]
    assert found(max_detections=1) == BOXES[:1]
    # Numbers of numpy and torch, also of types that are too small to calculate with.
    assert found(classes=np.array([0, 1])) == found(classes=torch.tensor([0, 1])) == BOXES[1:]
    assert found(max_detections=np.int64(1), batch_size=np.uint8(200)) == BOXES[:1]
    assert found(tile=np.array([64, 200, 40], np.uint8)) == found(tile=(64, 200, 40)) == BOXES
    detector.predictor.model.grow = 7
    assert found(classes=[2]) == [[63, -2, 85, 20]]
    assert found(classes=[2], clip=True) == [[63, 0, 85, 20]]


def test_only_pictures_of_equal_size_are_put_together(detector):
    small = canvas(30, 40, (2, 3, 10, 1))
    pictures = [PICTURE, small, PICTURE, PICTURE, small]
    found = detector(pictures, batch_size=2)
    assert [len(one) for one in found] == [3, 1, 3, 3, 1]
    shapes = detector.predictor.model.batches
    assert [len(batch) for batch in shapes] == [2, 1, 2]
    assert all(len(set(batch)) == 1 for batch in shapes)


def test_planted_objects_on_a_large_canvas_are_each_found_once(detector):
    """Across seams, corners of four tiles, and at borders."""
    planted = [
        (0, 0, 90, 0),
        (930, 100, 100, 1),
        (800, 870, 110, 2),
        (1800, 1000, 60, 0),
        (2740, 900, 120, 1),
        (3880, 2880, 120, 2),
        (1850, 1820, 127, 0),
        (3, 2750, 40, 1),
        (2000, 2500, 16, 2),
        (2100, 2500, 16, 2),
        (3600, 40, 100, 0),
        (2750, 1740, 128, 1),
    ]
    image = canvas(3000, 4000, *planted)
    [found] = detector(image, threshold=0.1, tile=(1024, 1024, 128), batch_size=2)
    boxes = sorted(map(tuple, found.pred_boxes.tensor.tolist()))
    assert boxes == sorted((x, y, x + side, y + side) for x, y, side, _ in planted)
    assert found.image_size == (3000, 4000)
    # What is in memory is a batch of tiles, never the picture.
    shapes = detector.predictor.model.batches
    assert {shape for batch in shapes for shape in batch} == {(3, 1024, 1024)}
    assert max(map(len, shapes)) == 2
    assert detector([image[:500, :700]], tile=(1024, 1024, 128))[0].image_size == (500, 700)


@pytest.fixture
def saved(tiny_config, tmp_path):
    """A file as training leaves it, and the model in it."""
    tiny_config.model.num_classes = 3
    model = build_model(tiny_config)
    description = ModelDescription.from_config(tiny_config).as_data()
    content = {"model": model.state_dict(), "class_names": NAMES, "description": description}
    save_checkpoint_file(content, tmp_path / "model_best.safetensors")
    return tmp_path / "model_best.safetensors", content


def test_a_file_is_all_it_takes(saved, tiny_config, tmp_path):
    path, content = saved
    detector = Detector(path)
    assert detector.class_names == NAMES
    tiny_config.model.num_classes = 80
    model = Detector.from_config(str(write_config(tiny_config, tmp_path)), path, device="cpu")
    for each in (detector, model):
        state = each.predictor.model.state_dict()
        assert all(torch.equal(state[name], value) for name, value in content["model"].items())
        assert each.class_names == NAMES
    first, second = (each(PICTURE, threshold=0)[0] for each in (detector, model))
    assert torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)


def write_config(cfg, folder):
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return folder / "config.yaml"


def test_files_that_describe_no_model_or_a_foreign_one_are_refused(saved, tmp_path):
    _, content = saved
    bare = tmp_path / "model_final.pth"
    torch.save({"model": content["model"]}, bare)
    with pytest.raises(CheckpointError, match=r"sap-detr convert .*model_final\.pth"):
        Detector(bare)
    content["description"]["model"]["neck"]["_target_"] = "os.system"
    foreign = tmp_path / "foreign.safetensors"
    save_checkpoint_file(content, foreign)
    with pytest.raises(CheckpointError, match=r"foreign.*model\.neck names 'os\.system'") as error:
        Detector(foreign)
    assert "\n" not in str(error.value)


def test_ap_by_way_of_files_equals_that_of_the_evaluator(tmp_path):
    random = np.random.RandomState(0)
    for split, number in (("train", 1), ("val", 6)):
        write_coco(tmp_path / "set", split, number, random)
    cfg = load_config("detr/detr_small_custom.py", [f"dataset.folder={tmp_path}/set"])
    cfg.dataset.name = "squares"
    cfg.dataloader.test.num_workers = 0
    cfg.dataloader.test.mapper.augmentations.short_side = 150
    prepare_data(cfg)
    expected = DetectionTrainer.test(cfg, BrightSquares(grow=0.7))["bbox"]

    file = tmp_path / "set" / "annotations" / "val.json"
    annotations = read_quietly(file)
    augmentations = instantiate(cfg.dataloader.test.mapper.augmentations)
    detector = Detector.from_model(BrightSquares(grow=0.7), augmentations, NAMES)
    ids = annotations.getImgIds()
    files = [tmp_path / "set" / "val" / annotations.imgs[i]["file_name"] for i in ids]
    results = to_coco(detector(files, threshold=0), ids, sorted(annotations.getCatIds()))
    assert {result["category_id"] for result in results} == {7, 8, 9}
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = annotations.loadRes(str(tmp_path / "results.json"))
        evaluation = COCOeval(annotations, loaded, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 10 < expected["AP"] < 90
    for name, value in zip(("AP", "AP50", "AP75"), evaluation.stats, strict=False):
        assert 100 * value == expected[name]


def read_quietly(file):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def write_coco(root, split, number, random):
    """Pictures of squares, annotated not quite where they are."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for image_id in range(1, number + 1):
        name = f"{image_id}.png"
        squares = [
            (int(30 * column + random.randint(8)), int(random.randint(60)), 12, column % 3)
            for column in range(5)
        ]
        Image.fromarray(canvas(80, 150, *squares)).save(root / split / name)
        images.append({"id": image_id, "file_name": name, "height": 80, "width": 150})
        for x, y, side, channel in squares:
            dx, dy = random.randint(-2, 3, 2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 7 + channel,
                    "bbox": [max(0, x + dx), max(0, y + dy), side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 7 + number, "name": name} for number, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"{split}.json").write_text(json.dumps(content))


def test_results_need_an_id_for_each_picture_and_class(detector):
    found = detector([PICTURE, PICTURE])
    assert [result["image_id"] for result in to_coco(found, [4, 9])] == [4] * 3 + [9] * 3
    with pytest.raises(ValueError, match="2 pictures' detections and 1 ids"):
        to_coco(found, [4])
    with pytest.raises(ValueError, match="class 2 is beyond the 2 ids"):
        to_coco(found, [4, 9], [1, 2])


def test_drawing_takes_the_same_kinds(detector):
    [found] = detector(PICTURE)
    drawn = detector.draw(PICTURE / 255, found, labels="none")
    assert drawn.shape == PICTURE.shape
    assert (drawn != PICTURE).any()


def test_supervision_is_told_of_where_it_is_missing(detector, monkeypatch):
    [found] = detector(PICTURE)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        to_supervision(found, NAMES)

    class Stub:
        Detections = dict

    monkeypatch.setitem(sys.modules, "supervision", Stub)
    given = to_supervision(found, NAMES)
    assert given["xyxy"].tolist() == BOXES
    assert given["class_id"].tolist() == [2, 1, 0]
    assert given["data"]["class_name"].tolist() == ["blue", "green", "red"]
    assert (given["confidence"] == found.scores.numpy()).all()


def test_the_block_in_the_document_runs(saved, folder, monkeypatch):
    text = (Path(__file__).parents[1] / "docs" / "using_models.md").read_text(encoding="utf-8")
    [block] = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Detector(" in b]
    monkeypatch.chdir(folder)
    for name in ("photo.jpg", "aerial.png"):
        Image.fromarray(PICTURE).save(name)
    (folder / "folder").mkdir()
    Image.fromarray(PICTURE).save("folder/one.jpg")
    exec(block, {})
    assert (folder / "drawn.png").is_file()
    assert isinstance(json.loads((folder / "results.json").read_text()), list)


def test_best_thresholds_are_those_of_each_class(detector):
    detector.thresholds = torch.tensor([0.985, 0.5, 0.1])
    scores = detector(PICTURE, threshold=0)[0]
    wanted = scores.scores >= detector.thresholds[scores.pred_classes]
    assert 0 < wanted.sum() < len(scores)
    [found] = detector(PICTURE, threshold="best")
    assert found.pred_boxes.tensor.tolist() == scores.pred_boxes.tensor[wanted].tolist()


def test_files_keep_thresholds_and_others_have_no_best(saved, tiny_config, tmp_path):
    path, content = saved
    with pytest.raises(ValueError, match=r"hold no thresholds.*sap-detr convert .*--thresholds"):
        Detector(path).stream(PICTURE, threshold="best")
    with pytest.raises(ValueError, match="'bset'"):
        Detector(path).stream(PICTURE, threshold="bset")
    description = {**content["description"], "thresholds": [0.1, 0.2, 1]}
    save_checkpoint_file({**content, "description": description}, path)
    from_config = Detector.from_config(str(write_config(tiny_config, tmp_path)), path, device="cpu")
    for each in (Detector(path), from_config):
        assert each.thresholds.tolist() == pytest.approx([0.1, 0.2, 1])
    for wrong, words in (([0.1], "1 thresholds for 3"), ([0, 0, 2], "0 to 1"), ("best", "no list")):
        description["thresholds"] = wrong
        save_checkpoint_file({**content, "description": description}, path)
        with pytest.raises(CheckpointError, match=words):
            Detector(path)
