"""The demo's command line, with a small model on tiny images."""

import demo
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from sap_detr.checkpoint import save_checkpoint_file
from sap_detr.config import load_config
from sap_detr.visualization import FrameReader, FrameWriter

CONFIG = "detr/detr_r50_500ep"
SMALL = [
    "model.neck.embed_dim=16",
    "model.encoder.num_layers=1",
    "model.encoder.ffn_dim=16",
    "model.decoder.num_layers=1",
    "model.decoder.ffn_dim=16",
    "model.decoder.num_queries=5",
    "dataloader.test.mapper.augmentations.short_side=64",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = instantiate(load_config(CONFIG, [*SMALL, "model.num_classes=2"]).model)
    file = tmp_path_factory.mktemp("weights") / "model.pth"
    content = {"model": model.state_dict(), "class_names": ["cat", "dog"]}
    save_checkpoint_file(content, file)
    nameless = file.with_name("nameless.pth")
    save_checkpoint_file({"model": model.state_dict()}, nameless)
    return file


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "photos" / "photo.jpg"
    file.parent.mkdir()
    Image.new("RGB", (96, 64), (90, 120, 150)).save(file)
    return file


def arguments(*args):
    common = ["--config-file", CONFIG, "--device", "cpu", "--threshold", "0", "--opts", *SMALL]
    return [str(a) for a in (*args, *common)]


def test_images_and_folders_are_drawn_into_the_output_folder(tmp_path, weights, photo, capsys):
    out = tmp_path / "out"
    Image.new("RGB", (700, 64)).save(photo.with_name("wide.PNG"))
    paths = [photo, photo.parent]
    args = arguments("--weights", weights, "--input", *paths, "--output", out, "--top-k", 3)
    assert demo.main(args) == 0
    assert sorted(p.name for p in out.iterdir()) == ["photo.png", "photo_2.png", "wide.png"]
    drawn = Image.open(out / "photo.png")
    assert drawn.size == (640, 427)
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 5
    assert Image.open(out / "wide.png").size == (700, 64)
    assert capsys.readouterr().out.count("3 objects") == 3


def test_class_names_come_from_the_checkpoint_and_else_from_the_data_set(weights):
    def names(*args):
        parsed = demo._parser().parse_args(arguments(*args, "--webcam", 0))
        detector = demo.build_detector(parsed)
        return detector.class_names, detector.predictor.model.num_classes

    assert names("--weights", weights) == (["cat", "dog"], 2)
    coco, number = names("--random-weights")
    assert coco[0] == "person"
    assert number == 80


def test_classes_are_numbered_if_nobody_names_them(weights):
    nameless = weights.with_name("nameless.pth")
    args = [*arguments("--weights", nameless, "--webcam", 0), "model.num_classes=2"]
    detector = demo.build_detector(demo._parser().parse_args(args))
    assert detector.class_names is None
    assert detector.predictor.model.num_classes == 2


def test_a_video_is_drawn_frame_by_frame(tmp_path, weights):
    video = tmp_path / "street.mp4"
    with FrameWriter(video, rate=10) as writer:
        for _ in range(3):
            writer.write(np.full((64, 96, 3), 90, np.uint8))
    out = tmp_path / "out"
    args = ("--weights", weights, "--video", video, "--output", out, "--max-frames", 2)
    assert demo.main(arguments(*args)) == 0
    frames = list(FrameReader(out / "street_detections.mp4"))
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 2
    assert frames[0].std() > 5


@pytest.fixture
def sap_detr_arguments(tiny_overrides, tmp_path, photo):
    changes = [x for x in tiny_overrides if not x.startswith("model.decoder.num_queries")]
    changes.append("model.decoder.grid_size=[2,3]")
    paths = ["--input", str(photo), "--output", str(tmp_path / "out")]
    args = ["--config-file", "sap_detr/sap_detr_small_shapes.py", "--random-weights", *paths]
    return [*args, "--threshold", "0", "--opts", *changes]


def test_points_are_drawn_and_attention_gets_a_sheet(tmp_path, sap_detr_arguments, capsys):
    out = tmp_path / "out"
    assert demo.main(["--points", "2", *sap_detr_arguments]) == 0
    assert f"see {out / 'photo.png'} and {out / 'attention' / 'photo.png'}" in (
        capsys.readouterr().out
    )
    drawn = Image.open(out / "photo.png")
    assert max(drawn.size) == demo.SMALLEST_WITH_POINTS
    two_rows = Image.open(out / "attention" / "photo.png").height
    assert demo.main(["--points", "3", *sap_detr_arguments]) == 0
    assert Image.open(out / "attention" / "photo.png").height > two_rows
    assert demo.main(["--points", *sap_detr_arguments[:-1], "model.decoder.num_layers=1"]) == 0


def test_points_and_sheet_are_of_the_queries_that_are_detected(
    tmp_path, sap_detr_arguments, monkeypatch
):
    shown = {}
    monkeypatch.setattr(
        demo,
        "attention_sheet",
        lambda image, boxes, traces, *args, **kwargs: shown.update(boxes=boxes, traces=traces),
    )
    assert demo.main(["--points", "4", *sap_detr_arguments]) == 0
    boxes, traces = shown["boxes"], shown["traces"]
    assert len({trace.query for trace in traces}) == len(traces) == 4
    assert (np.diff(boxes.scores) <= 0).all()
    for box, trace in zip(boxes.boxes, traces, strict=True):
        assert box == pytest.approx(trace.boxes[-1] * (96, 64, 96, 64), abs=1e-2)


def test_where_nothing_is_detected_there_is_no_sheet(tmp_path, sap_detr_arguments, capsys):
    sap_detr_arguments[sap_detr_arguments.index("--threshold") + 1] = "1.1"
    assert demo.main(["--points", *sap_detr_arguments]) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo.png"]
    assert "attention" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, message",
    [
        (["--random-weights", "--input", "{tmp}/none.jpg"], "none.jpg"),
        (["--random-weights", "--input", "{tmp}/text.jpg"], "text.jpg can't be read as an image"),
        (["--random-weights", "--input", "{tmp}/empty"], "has no images"),
        (["--random-weights", "--video", "{tmp}/none.mp4"], "none.mp4"),
        (["--random-weights", "--webcam", "987"], "webcam 987"),
        (["--input", "{photo}"], "--random-weights"),
        (["--weights", "{tmp}/none.pth", "--input", "{photo}"], "none.pth"),
        (["--random-weights", "--input", "{photo}", "--output", "{photo}"], "must be a folder"),
        (["--random-weights", "--input", "{photo}", "--max-frames", "0"], "--max-frames"),
        (["--random-weights", "--input", "{photo}", "--points"], "has a DetrDecoder"),
        (["--random-weights", "--input", "{photo}", "--points", "0"], "--points needs"),
        (["--random-weights", "--webcam", "0", "--points"], "--points needs"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, photo, capfd, args, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("not an image")
    args = [arg.format(tmp=tmp_path, photo=photo) for arg in args]
    assert demo.main(arguments("--output", tmp_path / "out", *args)) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_above_the_limit_are_refused_before_anything_is_built(
    tmp_path, photo, monkeypatch, capsys
):
    monkeypatch.setenv("SAP_DETR_MAX_IMAGE_PIXELS", "6143")
    args = ["--random-weights", "--input", photo.parent, "--output", tmp_path / "out"]
    assert demo.main(arguments(*args)) == 2
    assert "96x64 (width x height) is more than the limit of 6143" in capsys.readouterr().err


def test_incomplete_weights_are_refused(tmp_path, weights, photo, capsys):
    args = arguments("--weights", weights, "--input", photo, "--output", tmp_path / "out")
    args[args.index("model.encoder.num_layers=1")] = "model.encoder.num_layers=2"
    assert demo.main(args) == 2
    assert "encoder.layers.1" in capsys.readouterr().err


def test_outputs_never_replace_inputs_or_each_other(tmp_path):
    images = [tmp_path / "a.png", tmp_path / "b" / "a.jpg", tmp_path / "a_2.jpg"]
    files = demo.output_files(images, tmp_path)
    assert [file.name for file in files] == ["a_2.png", "a_3.png", "a_2_2.png"]
