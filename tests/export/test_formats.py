"""Files of every format against the model, for every method."""

from __future__ import annotations

import numpy as np
import pytest
from saved_detectors import METHODS, save_detector

from sap_detr.detector import Detector
from sap_detr.export import (
    FORMATS,
    LIMITS,
    Deployable,
    Example,
    ExportError,
    Metadata,
    difference,
    generated_images,
    open_exported,
    padded,
    run_both,
    trace,
)

# Other sizes than were traced; batches of 1, 2 and 1, the second with padding.
SIZES = [(160, 200), (130, 256), (192, 144), (250, 131)]
FITTING = [(160, 200), (130, 256), (99, 144)]


def examples(sizes):
    return [Example(x.transpose(2, 0, 1), x.shape[:2]) for x in generated_images(sizes)]


# Each of the others takes half a minute.
FAST = ("sap_detr",)
# At inference one and the same, as a test shows.
EXPORTED = [method for method in METHODS if method != "sap_group_detr"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(method, marks=() if method in FAST else pytest.mark.slow)
        for method in EXPORTED
    ],
)
def exported(request, tmp_path_factory):
    """A detector, its program, and what belongs to it."""
    folder = tmp_path_factory.mktemp(request.param)
    detector = Detector(save_detector(request.param, folder / "model.safetensors"), device="cpu")
    module = Deployable(detector.predictor.model)
    metadata = Metadata.of(detector, "float32", None, module.smallest_side)
    return detector, trace(module), metadata, folder


@pytest.mark.parametrize(
    "suffix", [x if x == ".pt2" else pytest.param(x, marks=pytest.mark.slow) for x in FORMATS]
)
def test_files_find_what_the_model_finds(exported, suffix):
    detector, program, metadata, folder = exported
    try:
        FORMATS[suffix].require("float32")
    except ExportError as error:
        pytest.skip(str(error))
    path = folder / f"detector{suffix}"
    FORMATS[suffix].write(program, metadata, path, [])
    runner, read = open_exported(path, threads=1)
    assert read == metadata
    found = difference(run_both(detector, runner, examples(SIZES)), LIMITS["float32"])
    assert found.images == 4
    assert found.detections > 20
    assert found.within(LIMITS["float32"]), str(found)


def test_a_program_tells_of_images_that_are_too_small(exported):
    _, program, metadata, folder = exported
    FORMATS[".pt2"].write(program, metadata, folder / "a.pt2", [])
    run, _ = open_exported(folder / "a.pt2")
    side = metadata.smallest_side
    smallest = np.zeros((1, 3, side, side), np.uint8)
    assert run(smallest, np.array([[side, side]])).scores.size
    with pytest.raises(ExportError, match=rf"--size {side - 1},{side}$"):
        run(smallest[:, :, 1:], np.array([[side - 1, side]]))


@pytest.mark.slow
def test_groups_of_queries_change_nothing_in_a_file(tmp_path):
    programs = [in_one_size(tmp_path, method)[1] for method in ("sap_detr", "sap_group_detr")]
    one, other = (
        [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        for program in programs
    )
    assert len(one) > 500
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("suffix, precision", [(".xml", "bfloat16"), (".onnx", "float16")])
def test_half_precision(suffix, precision, tmp_path):
    detector, program, _ = in_one_size(tmp_path)
    found = check(suffix, precision, detector, program, [], tmp_path)
    assert 1e-6 < found.score < 0.05  # computed in fewer digits, and not nonsense


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_int8(suffix, tmp_path):
    detector, program, size = in_one_size(tmp_path)
    rng = np.random.default_rng(0)
    calibration = [padded([example.image], size, rng) for example in examples(FITTING)]
    found = check(suffix, "int8", detector, program, calibration, tmp_path)
    assert 1e-5 < found.score < 0.2
    content = (tmp_path / f"detector{suffix}").read_bytes()
    assert b"FakeQuantize" in content or b"QuantizeLinear" in content


def in_one_size(folder, method="sap_detr"):
    detector = Detector(save_detector(method, folder / "model.safetensors"), device="cpu")
    size = (160, 256)
    return detector, trace(Deployable(detector.predictor.model), size), size


def check(suffix, precision, detector, program, calibration, folder):
    """Write a file in one size, and compare it."""
    try:
        FORMATS[suffix].require(precision)
    except ExportError as error:
        pytest.skip(str(error))
    path = folder / f"detector{suffix}"
    FORMATS[suffix].write(
        program, Metadata.of(detector, precision, (160, 256), 33), path, calibration
    )
    runner, _ = open_exported(path, threads=1)
    limits = LIMITS[precision]
    found = difference(run_both(detector, runner, examples(FITTING), (160, 256)), limits)
    assert found.within(limits), str(found)
    return found
