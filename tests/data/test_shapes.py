from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from sap_detr.data import DatasetError, check_datasets, generate_shapes, register_shapes
from sap_detr.data.shapes import dataset, drawing
from sap_detr.data.shapes.__main__ import main

SMALL = {"num_train": 4, "num_val": 2, "image_size": ((40, 60), (50, 70)), "max_objects": 4}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_parameters_give_the_same_bytes(tmp_path: Path) -> None:
    first = generate_shapes(tmp_path / "a", **SMALL)
    assert _bytes(first) == _bytes(generate_shapes(tmp_path / "b", **SMALL))
    other = _bytes(generate_shapes(tmp_path / "c", **SMALL, seed=1))
    assert other["train/000000.jpg"] != _bytes(first)["train/000000.jpg"]


def test_more_images_do_not_change_the_first_ones(tmp_path: Path) -> None:
    few = _bytes(generate_shapes(tmp_path / "few", **SMALL))
    folder = generate_shapes(tmp_path / "many", **{**SMALL, "num_train": 6, "num_val": 3})
    many = _bytes(folder)
    for name in few:
        if name.endswith(".jpg"):
            assert many[name] == few[name]
    first, more = json.loads(few["train.json"]), json.loads(many["train.json"])
    for key in ("images", "annotations"):
        assert more[key][: len(first[key])] == first[key]


def test_splits_differ(tmp_path: Path) -> None:
    files = _bytes(generate_shapes(tmp_path / "a", **SMALL))
    assert files["train/000000.jpg"] != files["val/000000.jpg"]


def test_image_sizes_stay_in_range_and_match_the_files(tmp_path: Path) -> None:
    folder = generate_shapes(tmp_path / "a", **{**SMALL, "num_train": 12})
    content = json.loads((folder / "train.json").read_text())
    sizes = [(image["height"], image["width"]) for image in content["images"]]
    assert all(40 <= h <= 60 and 50 <= w <= 70 for h, w in sizes)
    assert len(set(sizes)) > 1
    for image, (height, width) in zip(content["images"], sizes, strict=True):
        with Image.open(folder / "train" / image["file_name"]) as file:
            assert file.size == (width, height)


def test_boxes_are_tight_around_what_is_drawn() -> None:
    """A lone shape changes the background inside its box, up to every side (to a pixel)."""
    checked = 0
    for index in range(60):
        rng = np.random.RandomState([5, index])
        placement = drawing.Placement.random(rng, 64, 80)
        stencil = placement.rasterise(64, 80)
        if stencil is None:
            continue
        covered = np.zeros((64, 80))
        covered[stencil.window] = stencil.coverage
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        x0, y0, x1, y1 = stencil.box
        assert [np.floor(x0), np.floor(y0), np.ceil(x1), np.ceil(y1)] == drawn
        # Against the polygon itself, where the image's border doesn't cut it.
        outline = placement.polygons[0]
        if outline.min() > 1 and (outline.max(axis=0) < (79, 63)).all():
            exact = [*outline.min(axis=0), *outline.max(axis=0)]
            np.testing.assert_allclose(stencil.box, exact, atol=0.5)
            assert covered.sum() == pytest.approx(placement.area, rel=0.12)
            checked += 1
    assert checked > 10


def test_every_annotated_shape_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel belongs to the shape painted last; every shape keeps enough of its own."""
    masks: list[np.ndarray] = []

    def record(rng, canvas, placement, stencil) -> None:  # type: ignore[no-untyped-def]
        mask = np.zeros(canvas.shape[:2], dtype=bool)
        mask[stencil.window] = stencil.coverage > 0.5
        masks.append(mask)

    monkeypatch.setattr(drawing, "paint", record)
    overlaps = 0
    for index in range(40):
        masks.clear()
        _, shapes = drawing.draw_image(np.random.RandomState(index), 64, 64, 10)
        assert len(shapes) == len(masks)
        for i, mask in enumerate(masks):
            hidden = mask & np.any(masks[i + 1 :], axis=0) if masks[i + 1 :] else mask & False
            overlaps += bool(hidden.any())
            assert (mask & ~hidden).sum() >= drawing.MIN_VISIBLE * mask.sum()
    assert overlaps > 20


def test_some_images_are_empty_but_few() -> None:
    counts = [len(drawing.draw_image(np.random.RandomState(i), 32, 32, 4)[1]) for i in range(400)]
    assert 1 <= counts.count(0) <= 24
    assert max(counts) <= 4


def test_an_existing_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_shapes(tmp_path / "a", **SMALL)
    monkeypatch.setattr(dataset, "draw_image", None)
    assert generate_shapes(tmp_path / "a", **SMALL) == tmp_path / "a"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert (generate_shapes(tmp_path / "a", **SMALL) / "shapes.json").is_file()


def test_other_parameters_are_refused_with_both_sets(tmp_path: Path) -> None:
    generate_shapes(tmp_path / "a", **SMALL)
    with pytest.raises(DatasetError, match=r"(?s)name another.*'num_train': 4.*'num_train': 5"):
        generate_shapes(tmp_path / "a", **{**SMALL, "num_train": 5})


def test_a_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("precious")
    with pytest.raises(DatasetError, match="name another folder"):
        generate_shapes(tmp_path / "a", **SMALL)
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "thesis.tex"]


def test_smallest_radius() -> None:
    def radii(least: int) -> list[float]:
        rng = np.random.RandomState(0)
        return [drawing.Placement.random(rng, 64, 64, least).radii[0] for _ in range(200)]

    assert 9 <= min(radii(9)) < 9.5
    assert min(radii(drawing.SMALLEST_RADIUS)) < 7
    assert max(radii(9)) <= 0.3 * 64
    assert set(radii(30)) == {30.0}


@pytest.mark.parametrize(
    "bad",
    [
        {"num_train": 0},
        {"num_val": "3"},
        {"max_objects": True},
        {"min_radius": 0},
        {"seed": -1},
        {"image_size": 8},
        {"image_size": (64,)},
        {"image_size": ((70, 60), 64)},
        {"image_size": "64x64"},
        {"image_size": None},
    ],
)
def test_senseless_parameters_are_refused(tmp_path: Path, bad: dict) -> None:
    with pytest.raises(DatasetError, match=next(iter(bad))):
        generate_shapes(tmp_path / "a", **{**SMALL, **bad})


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail_at_third(*args):  # type: ignore[no-untyped-def]
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return drawing.draw_image(*args)

    monkeypatch.setattr(dataset, "draw_image", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path / "a", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_give_one_complete_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2)
    original = dataset.write_set

    def write_together(*args):  # type: ignore[no-untyped-def]
        original(*args)
        barrier.wait(timeout=20)

    monkeypatch.setattr(dataset, "write_set", write_together)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            generate_shapes(tmp_path / "a", **SMALL)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    monkeypatch.undo()
    assert _bytes(tmp_path / "a") == _bytes(generate_shapes(tmp_path / "b", **SMALL))


def test_register_shapes(tmp_path: Path) -> None:
    names = register_shapes("toy", tmp_path / "a", **SMALL)
    assert names == ["toy_train", "toy_val"]
    assert register_shapes("toy", tmp_path / "a", **SMALL) == names
    metadata = MetadataCatalog.get("toy_val")
    assert metadata.thing_classes == list(drawing.CLASS_NAMES)
    assert metadata.evaluator_type == "coco"
    assert metadata.json_file == str(tmp_path / "a" / "val.json")
    assert metadata.image_root == str(tmp_path / "a" / "val")
    assert len(DatasetCatalog.get("toy_train")) == 4
    check_datasets(names)


def test_register_shapes_with_a_taken_name_is_refused(tmp_path: Path) -> None:
    register_shapes("toy", tmp_path / "a", **SMALL)
    with pytest.raises(DatasetError, match="choose another name"):
        register_shapes("toy", tmp_path / "b", **{**SMALL, "seed": 3})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--folder", str(tmp_path / "a"), "--num-val", "1", "--height", "40", "48"]
    assert main([*arguments, "--width", "64", "--num-train", "2"]) == 0
    assert "2 training and 1 validation" in capsys.readouterr().out
    stamp = json.loads((tmp_path / "a" / "shapes.json").read_text())
    assert (stamp["heights"], stamp["widths"]) == ([40, 48], [64, 64])
    assert main([*arguments, "--num-train", "3"]) == 1
    assert "other parameters" in capsys.readouterr().err
