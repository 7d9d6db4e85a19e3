"""The script of the documents that detects without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from saved_detectors import NAMES, save_detector

from sap_detr.detector import Detector
from sap_detr.export import FORMATS, Deployable, ExportError, Metadata, trace

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "detect_onnx.py"
# In a process where importing torch fails; everything is printed.
RUN = """
import runpy, sys
sys.modules["torch"] = None
main = runpy.run_path(sys.argv[1])["main"]
main.__globals__["THRESHOLD"] = 0
main(*sys.argv[2:])
"""


@pytest.mark.slow
def test_the_script_finds_what_the_detector_finds(tmp_path):
    try:
        FORMATS[".onnx"].require("float32")
    except ExportError as error:
        pytest.skip(str(error))
    detector = Detector(save_detector("sap_detr", tmp_path / "model.safetensors"), device="cpu")
    module = Deployable(detector.predictor.model)
    size = (160, 256)
    metadata = Metadata.of(detector, "float32", size, module.smallest_side)
    FORMATS[".onnx"].write(trace(module, size), metadata, tmp_path / "a.onnx", [])
    pixels = np.random.default_rng(0).integers(256, size=(320, 512, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    command = [sys.executable, "-c", RUN, str(SCRIPT), tmp_path / "a.onnx", tmp_path / "a.png"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    [expected] = detector(tmp_path / "a.png", threshold=0)
    assert len(rows) == len(expected) > 40
    # Pillow and torch round resized pixels in their own ways.
    found = np.array([row[1:] for row in rows], float)
    np.testing.assert_allclose(found[:, 0], expected.scores.numpy(), atol=0.01)
    assert {row[0] for row in rows} <= set(NAMES)
    best = expected.pred_boxes.tensor[0].numpy()
    assert np.abs(found[:5, 1:] - best).max(1).min() < 3

    # Of other shapes than the file's one size: shrunk to fit, and padded.
    Image.fromarray(pixels[:90, :70]).resize((10, 3000)).save(tmp_path / "long.png")
    command[-1] = tmp_path / "long.png"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) > 40
    assert max(float(row[3]) for row in rows) > 1000
