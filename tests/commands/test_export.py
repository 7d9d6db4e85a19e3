"""sap-detr export: what is written, compared, told and refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from saved_detectors import NAMES, save_detector

from sap_detr import cli
from sap_detr.commands import export
from sap_detr.detector import Detector, to_coco
from sap_detr.export import average_precision, errors, open_exported

# Without sizes that are unknown, tracing takes a tenth of the time.
SIZE = ["--size", "160,256"]
LABELLED_HALF = ["--precision", "float16", "--check-images", ".", "--annotations", "a.json"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_detector("sap_detr", tmp_path_factory.mktemp("weights") / "model.safetensors")


@pytest.fixture
def photos(tmp_path):
    """Pictures larger and smaller than the network sees them."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index, shape in enumerate([(320, 512, 3), (90, 70, 3), (64, 200, 3)]):
        pixels = rng.integers(256, size=shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


def test_a_file_is_written_and_compared_on_pictures(weights, photos, tmp_path, capsys):
    path = tmp_path / "detector.pt2"
    command = ["export", str(weights), str(path), *SIZE, "--top-k", "7"]
    assert cli.main([*command, "--check-images", str(photos)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{path}: torch.export, float32"
    assert told[1].startswith("3 images, ")
    assert told[2].startswith("padding to 160x256 may change what the model finds")
    run, metadata = open_exported(path)
    assert metadata.class_names == NAMES
    assert (metadata.short_side, metadata.max_size, metadata.size) == (160, 256, (160, 256))
    assert len(metadata.weights_sha256) == 64
    found = run(np.zeros((2, 3, 160, 256), np.uint8), np.array([[160, 256], [99, 200]]))
    assert [x.shape for x in found] == [(2, 7, 4), (2, 7), (2, 7)]
    assert (np.diff(found.scores) <= 0).all()


@pytest.fixture
def broken(monkeypatch):
    """What is written has a wrong weight."""
    trace = export.trace

    def trace_with_a_broken_weight(module, size):
        broken = copy.deepcopy(module)
        weight = broken.get_parameter("model.encoder.layers.0.ffn.linear1.weight")
        with torch.no_grad():
            weight[0, 0] += 1
        return trace(broken, size)

    monkeypatch.setattr(export, "trace", trace_with_a_broken_weight)


@pytest.mark.slow
def test_a_file_that_differs_stays_with_exit_status_3(broken, weights, tmp_path, capsys):
    path = tmp_path / "detector.pt2"
    command = ["export", str(weights), str(path), *SIZE]
    assert cli.main(command) == 3
    assert path.is_file()
    *_, last = capsys.readouterr().out.splitlines()
    assert "differs too much from the model: 100% of the detections must be found again" in last
    assert cli.main([*command, "--score-limit", "1", "--box-limit", "1000"]) == 0


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("a.txt", [], "OUTPUT must end in .pt2 or .onnx or .xml, not 'a.txt'"),
        ("a.pt2", ["--precision", "int8"], "torch.export files are not written in int8"),
        ("none/a.pt2", [], "there is no folder"),
        ("a.pt2", ["--calibration", "."], "--precision int8 and --calibration"),
        ("a.pt2", ["--opts", "model.num_classes=3"], "--config-file"),
        ("a.pt2", ["--check-images", "nothing.png"], "nothing.png"),
        ("a.pt2", ["--box-limit", "-1"], "--box-limit"),
        ("a.onnx", [*LABELLED_HALF, "--box-limit", "2"], "AP alone decides"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(
    name, options, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(export, "Detector", None)
    assert cli.main(["export", "w.safetensors", str(tmp_path / name), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "weights, output, words",
    [
        ("w.pt2", "../{folder}/w.pt2", "OUTPUT would replace WEIGHTS, "),
        ("w.bin", "w.xml", "OpenVINO's second file would replace WEIGHTS, "),
        ("w.bin", "a.onnx", "OUTPUT would replace --annotations, "),
    ],
)
def test_what_is_read_is_not_written_over(weights, output, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "Detector", None)
    monkeypatch.chdir(tmp_path)
    output = output.format(folder=tmp_path.name)
    labelled = ["--check-images", ".", "--annotations", "a.onnx"]
    assert cli.main(["export", weights, output, *labelled]) == 2
    assert capsys.readouterr().err.startswith(f"error: {words}")


@pytest.mark.parametrize(
    "name, package, command",
    [
        ("a.onnx", "onnxscript", "pip install 'sap-detr[export]'"),
        ("a.xml", "openvino", "pip install 'sap-detr[openvino]'"),
    ],
)
def test_packages_that_are_missing(name, package, command, tmp_path, monkeypatch, capsys):
    found = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda n: None if n == package else found(n))
    assert cli.main(["export", "w.safetensors", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {package} not installed: ")
    assert command in error


def test_a_model_that_takes_batches_apart(tmp_path, capsys):
    weights = save_detector("detr", tmp_path / "m.safetensors", model__padding_invariant=True)
    assert cli.main(["export", str(weights), str(tmp_path / "a.pt2")]) == 2
    assert "padding_invariant" in capsys.readouterr().err
    assert not (tmp_path / "a.pt2").exists()


@pytest.fixture
def labelled(photos, tmp_path):
    """Options that name pictures and what is in them."""
    boxes = [[10, 20, 100, 80], [5, 5, 30, 40]]
    annotations = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 1, "width": 1} for i in (0, 1)],
        "categories": [{"id": 5 + i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 5, "bbox": box, "area": 900, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    return ["--check-images", str(photos), "--annotations", str(tmp_path / "a.json")]


@pytest.mark.slow
@pytest.mark.parametrize("precision, status", [("float32", 3), ("int8", 0)])
def test_with_fewer_digits_average_precision_alone_decides(
    precision, status, broken, weights, labelled, tmp_path, monkeypatch
):
    command = ["export", str(weights), str(tmp_path / "a.pt2"), *SIZE]
    strict = replace(export.LIMITS[precision], score=0, box=0)
    monkeypatch.setitem(export.LIMITS, "float32", strict)
    monkeypatch.setattr(
        average_precision, "coco_numbers", lambda *_: SimpleNamespace(twelve={"AP": 0.5})
    )
    assert cli.main([*command, *labelled]) == status
    assert cli.main(command) == 3


@pytest.mark.slow
def test_average_precision_is_compared(weights, photos, labelled, tmp_path, monkeypatch, capsys):
    told = []

    def numbers(results):
        told.append(results)
        return SimpleNamespace(twelve={"AP": 0.5 - 0.1 * len(told)})

    monkeypatch.setattr(average_precision, "evaluation_data", lambda kept, results: results)
    monkeypatch.setattr(average_precision, "coco_numbers", numbers)
    assert cli.main(["export", str(weights), str(tmp_path / "a.pt2"), *SIZE, *labelled]) == 3
    numbers_told, padding, verdict = capsys.readouterr().out.splitlines()[-3:]
    assert numbers_told == "AP 40.00 of the model, 30.00 of the file"
    assert "model: AP must be within 0.1. It" in verdict
    # What is compared are detections as Detectron2 gives them, in pixels of the picture.
    assert padding == "padding to 160x256 changes the model, too: its AP is 20.00 without"
    of_model, of_file, of_model_alone = told
    assert [r["bbox"] for r in of_model_alone] != [r["bbox"] for r in of_model]
    paths = [photos / "0.png", photos / "1.png"]
    [one, _] = Detector(weights, device="cpu")(paths, threshold=0)
    expected = to_coco([one], [0], [5, 6, 7])
    got = [r for r in of_model if r["image_id"] == 0]
    assert {r["image_id"] for r in of_file} == {0, 1}
    assert {r["category_id"] for r in of_file} <= {5, 6, 7}
    np.testing.assert_allclose([r["score"] for r in got], [r["score"] for r in expected], atol=1e-5)
    np.testing.assert_allclose([r["bbox"] for r in got], [r["bbox"] for r in expected], atol=0.01)
