"""The command that detects, with a small model on tiny images."""

import re

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from sap_detr import cli
from sap_detr.bad_files import BadFiles
from sap_detr.checkpoint import load_checkpoint_file, save_checkpoint_file
from sap_detr.commands import painting, picture_files, predict
from sap_detr.config import load_config
from sap_detr.data import PixelRange, image_suffixes, read_image
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


def main(args):
    return cli.main(["predict", *args])


def parse(args):
    return cli.argument_parser().parse_args(["predict", *args])


def arguments(*args):
    common = ["--config-file", CONFIG, "--device", "cpu", "--threshold", "0", "--opts", *SMALL]
    return [str(a) for a in (*args, *common)]


def test_images_and_folders_are_drawn_into_the_output_folder(tmp_path, weights, photo, capsys):
    out = tmp_path / "out"
    Image.new("RGB", (700, 64)).save(photo.with_name("wide.PNG"))
    paths = [photo, photo.parent]
    args = arguments("--weights", weights, "--input", *paths, "--output", out, "--top-k", 3)
    assert main(args) == 0
    assert sorted(p.name for p in out.iterdir()) == ["photo.png", "photo_2.png", "wide.png"]
    drawn = Image.open(out / "photo.png")
    assert drawn.size == (640, 427)
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 5
    assert Image.open(out / "wide.png").size == (700, 64)
    assert capsys.readouterr().out.count("3 objects") == 3


def test_class_names_come_from_the_checkpoint_and_else_from_the_data_set(weights):
    def names(*args):
        parsed = parse(arguments(*args, "--webcam", 0))
        detector = predict.build_detector(parsed)
        return detector.class_names, detector.predictor.model.num_classes

    assert names("--weights", weights) == (["cat", "dog"], 2)
    coco, number = names("--random-weights")
    assert coco[0] == "person"
    assert number == 80


def test_classes_are_numbered_if_nobody_names_them(weights):
    nameless = weights.with_name("nameless.pth")
    args = [*arguments("--weights", nameless, "--webcam", 0), "model.num_classes=2"]
    detector = predict.build_detector(parse(args))
    assert detector.class_names is None
    assert detector.predictor.model.num_classes == 2


def test_a_video_is_drawn_frame_by_frame(tmp_path, weights, capsys):
    video = tmp_path / "street.mp4"
    with FrameWriter(video, rate=10) as writer:
        for _ in range(3):
            writer.write(np.full((64, 96, 3), 90, np.uint8))
    out = tmp_path / "out"
    args = ("--weights", weights, "--video", video, "--output", out, "--max-frames", 2)
    assert main(arguments(*args)) == 0
    frames = list(FrameReader(out / "street_detections.mp4"))
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 2
    assert frames[0].std() > 5
    again = ("--weights", weights, "--video", out / "street_detections.mp4", "--output", out)
    (out / "street_detections_detections.mp4").symlink_to(out / "street_detections.mp4")
    assert main(arguments(*again)) == 2
    assert "the video with detections would replace --video" in capsys.readouterr().err


def test_a_video_that_is_cut_off_is_told(tmp_path, weights, capsys):
    video = tmp_path / "cut.avi"
    # Its index, at the end, is what says how many frames there are; each is a picture of its own.
    encoder = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for _ in range(10):
        encoder.write(np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8))
    encoder.release()
    args = ("--weights", weights, "--video", video, "--output", tmp_path / "out")
    assert main(arguments(*args, "--max-frames", 1)) == 0
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert main(arguments(*args)) == 1
    assert re.search(r"ended after \d of 10 frames: it is cut off", capsys.readouterr().err)


@pytest.fixture
def sap_detr_arguments(tiny_overrides, tmp_path, photo):
    changes = [x for x in tiny_overrides if not x.startswith("model.decoder.num_queries")]
    changes.append("model.decoder.grid_size=[2,3]")
    paths = ["--input", str(photo), "--output", str(tmp_path / "out")]
    args = ["--config-file", "sap_detr/sap_detr_small_shapes.py", "--random-weights", *paths]
    return [*args, "--threshold", "0", "--opts", *changes]


def test_points_are_drawn_and_attention_gets_a_sheet(tmp_path, sap_detr_arguments, capsys):
    out = tmp_path / "out"
    assert main(["--points", "2", *sap_detr_arguments]) == 0
    assert f"see {out / 'photo.png'} and {out / 'attention' / 'photo.png'}" in (
        capsys.readouterr().out
    )
    drawn = Image.open(out / "photo.png")
    assert max(drawn.size) == painting.SMALLEST_WITH_POINTS
    two_rows = Image.open(out / "attention" / "photo.png").height
    assert main(["--points", "3", *sap_detr_arguments]) == 0
    assert Image.open(out / "attention" / "photo.png").height > two_rows
    assert main(["--points", *sap_detr_arguments[:-1], "model.decoder.num_layers=1"]) == 0


def test_points_and_sheet_are_of_the_queries_that_are_detected(
    tmp_path, sap_detr_arguments, monkeypatch
):
    shown = {}
    monkeypatch.setattr(
        painting,
        "attention_sheet",
        lambda image, boxes, traces, *args, **kwargs: shown.update(boxes=boxes, traces=traces),
    )
    assert main(["--points", "4", *sap_detr_arguments]) == 0
    boxes, traces = shown["boxes"], shown["traces"]
    assert len({trace.query for trace in traces}) == len(traces) == 4
    assert (np.diff(boxes.scores.numpy()) <= 0).all()
    for box, trace in zip(boxes.pred_boxes.tensor.numpy(), traces, strict=True):
        assert box == pytest.approx(trace.boxes[-1] * (96, 64, 96, 64), abs=1e-2)


def test_where_nothing_is_detected_there_is_no_sheet(tmp_path, sap_detr_arguments, capsys):
    sap_detr_arguments[sap_detr_arguments.index("--threshold") + 1] = "1"
    assert main(["--points", *sap_detr_arguments]) == 0
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
        (["--random-weights", "--input", "{photo}", "--points"], "has a DetrDecoder"),
        (["--random-weights", "--input", "{photo}", "--points", "0"], "--points needs"),
        (["--random-weights", "--webcam", "0", "--points"], "--points needs"),
        (["--random-weights", "--input", "{tmp}/none.jpg", "{tmp}/text.jpg"], "text.jpg"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, photo, capfd, args, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("not an image")
    args = [arg.format(tmp=tmp_path, photo=photo) for arg in args]
    assert main(arguments("--output", tmp_path / "out", *args)) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--top-k", "--max-frames", "--batch-size"])
def test_counts_must_be_positive(photo, capsys, flag):
    with pytest.raises(SystemExit) as end:
        main(arguments("--random-weights", "--input", photo, flag, 0))
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error == f"error: argument {flag}: '0' is not a whole number above 0\n"


@pytest.mark.parametrize("threshold", ["-0.1", "1.01", "50", "nan", "inf", "-inf"])
def test_thresholds_outside_of_0_to_1_are_refused(tmp_path, photo, capsys, threshold):
    args = arguments("--random-weights", "--input", photo, "--output", tmp_path / "out")
    place = args.index("--threshold")
    args[place : place + 2] = [f"--threshold={threshold}"]
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --threshold must be from 0 to 1")
    assert error.count("\n") == 1


@pytest.fixture
def folder_with_bad_files(photo, damage_image):
    """A folder of two good images, and others that end differently."""
    folder = photo.parent
    photo.with_name("z.png").write_bytes(photo.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(noise).save(photo.with_name("damaged.png"))
    damage_image(photo.with_name("damaged.png"))
    photo.with_name("text.jpg").write_text("not an image")
    photo.with_name("._photo.png").write_bytes(b"\0\5\x16\7")  # as macOS leaves them
    photo.with_name("notes.txt").write_text("holidays")
    photo.with_name("folder.jpg").mkdir()
    photo.with_name("unlinked.jpg").symlink_to("nowhere.jpg")
    photo.with_name("notes").symlink_to("nowhere")
    return folder


def test_bad_files_are_left_out_counted_and_listed(
    tmp_path, weights, folder_with_bad_files, capsys
):
    folder, out = folder_with_bad_files, tmp_path / "out"
    paths = [tmp_path / "none.jpg", folder]
    assert main(arguments("--weights", weights, "--input", *paths, "--output", out)) == 1
    printed = capsys.readouterr()
    assert sorted(p.name for p in out.iterdir()) == ["photo.png", "z.png"]
    assert printed.out.count(" objects, see ") == 2
    others = "._photo.png, notes, notes.txt"
    assert f"left out, as hidden or not named like an image: {others}" in printed.out
    count, *reasons = printed.err.splitlines()
    assert count == "4 files left out:"
    bad = ["none.jpg", "text.jpg", "unlinked.jpg", "damaged.png"]
    for reason, name in zip(reasons, bad, strict=True):
        assert name in reason


def test_the_first_bad_file_ends_everything_on_request(
    tmp_path, weights, folder_with_bad_files, capsys
):
    folder, out = folder_with_bad_files, tmp_path / "out"
    common = arguments("--weights", weights, "--stop-at-first-error", "--output", out, "--input")
    split = common.index("--config-file")
    for paths, name in (([folder], "text.jpg"), ([folder / "damaged.png"], "damaged.png")):
        args = [*common[:split], *map(str, paths), *common[split:]]
        assert main(args) == 2
        error = capsys.readouterr().err
        assert name in error
        assert error.count("\n") == 1
    assert not list(out.glob("*"))


def test_where_every_image_turns_out_to_be_damaged_the_status_says_so(
    tmp_path, weights, folder_with_bad_files, capsys
):
    damaged = folder_with_bad_files / "damaged.png"
    args = arguments("--weights", weights, "--input", damaged, "--output", tmp_path / "out")
    assert main(args) == 2
    assert "damaged.png can't be read as an image" in capsys.readouterr().err


def test_a_folder_with_nothing_but_hidden_files_has_no_images(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / ".hidden.png")
    assert main(arguments("--random-weights", "--input", tmp_path / "photos")) == 2
    assert "has no images" in capsys.readouterr().err


def test_folders_have_images_of_every_format_that_is_read(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    files = []
    for suffix in sorted(image_suffixes()):
        kind = Image.registered_extensions()[suffix]
        if kind not in Image.SAVE or (suffix == ".pfm"):
            continue
        file = tmp_path / f"image{suffix.upper() if suffix == '.gif' else suffix}"
        (image.convert("L") if suffix in (".pgm", ".pbm") else image).save(file, kind)
        files.append(file)
    assert {".gif", ".jfif", ".jpg", ".png", ".webp"} <= {file.suffix.lower() for file in files}
    assert (".avif" in {file.suffix for file in files}) == ("AVIF" in Image.SAVE)
    bad = BadFiles(picture_files.ImageError)
    found = picture_files.list_files([tmp_path], bad)
    assert sorted(found) == sorted(files)
    assert all(picture_files.is_usable(file, PixelRange(), bad) for file in found)
    assert not bad.reasons
    for file in files:
        assert read_image(file).shape == (16, 16, 3)


def test_images_of_many_bits_are_read_as_the_config_says(tmp_path, weights, photo, capsys):
    deep = photo.with_name("deep.png")
    values = np.arange(96 * 64, dtype=np.uint16).reshape(64, 96) % 4096
    Image.fromarray(values).save(deep)
    out = tmp_path / "out"
    brightness = {}
    for setting in ("full", "bits=12"):
        args = ["--weights", weights, "--top-k", 1, "--input", deep, "--output", out]
        opts = f"dataloader.pixel_range='{setting}'"
        assert main([*arguments(*args), opts]) == 0
        brightness[setting] = np.asarray(Image.open(out / "deep.png")).mean()
    assert brightness["bits=12"] > 2 * brightness["full"]
    capsys.readouterr()
    args = arguments("--weights", weights, "--input", deep, "--output", out)
    assert main([*args, "dataloader.pixel_range='bits=4'"]) == 2
    error = capsys.readouterr().err
    assert "deep.png" in error
    assert "set dataloader.pixel_range" in error


def test_predictions_that_are_not_finite_are_told(tmp_path, weights, photo, capsys):
    state = load_checkpoint_file(weights)
    for name in ("decoder.norm.bias", "decoder.class_head.weight"):
        state["model"][name].fill_(3e38)  # finite, but nothing after them is
    diverged = tmp_path / "diverged.pth"
    save_checkpoint_file(state, diverged)
    out = tmp_path / "out"
    assert main(arguments("--weights", diverged, "--input", photo, "--output", out)) == 2
    error = capsys.readouterr().err
    assert "NaN" in error
    assert not list(out.glob("*"))
    video = tmp_path / "street.mp4"
    with FrameWriter(video, rate=10) as writer:
        writer.write(np.full((64, 96, 3), 90, np.uint8))
    assert main(arguments("--weights", diverged, "--video", video, "--output", out)) == 2
    error = capsys.readouterr().err
    assert "street.mp4, frame 1: " in error
    assert "NaN" in error


def test_images_above_the_limit_are_refused_before_anything_is_built(
    tmp_path, photo, monkeypatch, capsys
):
    monkeypatch.setenv("SAP_DETR_MAX_IMAGE_PIXELS", "6143")
    args = ["--random-weights", "--input", photo.parent, "--output", tmp_path / "out"]
    assert main(arguments(*args)) == 2
    assert "96x64 (width x height) is more than the limit of 6143" in capsys.readouterr().err


def test_incomplete_weights_are_refused(tmp_path, weights, photo, capsys):
    args = arguments("--weights", weights, "--input", photo, "--output", tmp_path / "out")
    args[args.index("model.encoder.num_layers=1")] = "model.encoder.num_layers=2"
    assert main(args) == 2
    assert "encoder.layers.1" in capsys.readouterr().err


def test_outputs_never_replace_inputs_or_each_other(tmp_path):
    images = [tmp_path / "a.png", tmp_path / "b" / "a.jpg", tmp_path / "a_2.jpg"]
    files = picture_files.output_files(images, tmp_path)
    assert [file.name for file in files] == ["a_2.png", "a_3.png", "a_2_2.png"]
