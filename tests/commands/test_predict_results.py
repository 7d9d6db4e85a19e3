"""What `sap-detr predict` writes of many pictures, in one process or in several."""

import contextlib
import csv
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sap_detr import cli
from sap_detr.checkpoint import save_checkpoint_file
from sap_detr.commands import picture_job
from sap_detr.config import load_config
from sap_detr.detector import Detector
from sap_detr.engine import ModelDescription, build_model, prepare_data
from sap_detr.engine.main import evaluate
from sap_detr.small_models import small_models

NAMES = ["cat", "dog", "bird"]


@pytest.fixture
def weights(tiny_config, tmp_path):
    tiny_config.model.num_classes = len(NAMES)
    description = ModelDescription.from_config(tiny_config).as_data()
    state = build_model(tiny_config).state_dict()
    file = tmp_path / "model.safetensors"
    save_checkpoint_file({"model": state, "class_names": NAMES, "description": description}, file)
    return file


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(7):
        pixels = random.integers(0, 256, (64, 64 + number % 2, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "5.png").write_text("no image")
    return folder


@pytest.fixture
def predict(weights, photos, tmp_path):
    def predict(*args, result="results.json", input=photos):
        common = ["--weights", weights, "--input", input, "--device", "cpu"]
        results = ["--json", tmp_path / result]
        return cli.main(["predict", *map(str, [*common, *results, *args])])

    return predict


def read(path):
    return json.loads(path.read_text())


def test_json_is_what_the_detector_finds(predict, weights, photos, tmp_path, capsys):
    assert predict() == 1
    results = read(tmp_path / "results.json")
    images = read(tmp_path / "results.images.json")
    assert [entry["id"] for entry in images["images"]] == [1, 2, 3, 4, 5, 7]
    assert images["images"][1] == {
        "id": 2,
        "file_name": str(photos / "1.png"),
        "height": 64,
        "width": 65,
    }
    assert images["categories"] == [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    detector = Detector(weights, "cpu")
    for entry in images["images"]:
        [found] = detector(entry["file_name"], threshold=0)
        mine = [result for result in results if result["image_id"] == entry["id"]]
        assert [result["score"] for result in mine] == found.scores.tolist()
        assert [result["category_id"] for result in mine] == found.pred_classes.tolist()
        corners = torch.tensor([result["bbox"] for result in mine])
        corners[:, 2:] += corners[:, :2]
        torch.testing.assert_close(corners, found.pred_boxes.tensor)
    assert sorted(p.name for p in tmp_path.glob("results*")) == [
        "results.images.json",
        "results.json",
    ]
    printed = capsys.readouterr()
    assert f"{tmp_path / 'results.images.json'}: which ids" in printed.out
    assert "1 file left out:" in printed.err
    assert "5.png" in printed.err


def test_batches_and_shards_give_the_same_file(predict, tmp_path, capsys):
    predict(result="whole.json")
    predict("--batch-size", 3, result="batches.json")
    for shard, status in (("2/3", 0), ("1/3", 0), ("3/3", 1)):
        assert not (tmp_path / "results.json").exists()
        assert predict("--shard", shard) == status
    whole, shards = read(tmp_path / "whole.json"), read(tmp_path / "results.json")
    assert shards == whole
    for one, other in zip(read(tmp_path / "batches.json"), whole, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
    assert read(tmp_path / "results.images.json") == read(tmp_path / "whole.images.json")
    assert "5.png" in capsys.readouterr().err.splitlines()[-1]
    assert predict("--shard", "2/3", "--resume") == 0
    assert "is there already: nothing to do" in capsys.readouterr().out
    assert predict("--shard", "2/3") == 2


def test_more_shards_than_pictures(predict, photos, tmp_path):
    for number in range(1, 4):
        assert predict("--shard", f"{number}/3", input=photos / "0.png") == 0
    assert {result["image_id"] for result in read(tmp_path / "results.json")} == {1}


def test_processes_of_torchrun_write_one_file(predict, tmp_path, monkeypatch):
    predict(result="whole.json")
    settings = {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 29500}
    for rank in (1, 0):
        variables = {**settings, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        predict()
    assert read(tmp_path / "results.json") == read(tmp_path / "whole.json")


def test_an_interrupted_job_goes_on(predict, tmp_path, monkeypatch, capsys):
    predict(result="whole.json")
    seen = []
    original = picture_job.read_image

    def interrupted(file, **options):
        seen.append(file.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(file, **options)

    monkeypatch.setattr(picture_job, "read_image", interrupted)
    assert predict() == 130
    assert "go on with --resume" in capsys.readouterr().err
    assert predict() == 2
    assert "was left by an earlier run" in capsys.readouterr().err
    assert seen == ["0.png", "1.png", "2.png"]
    part = tmp_path / "results.json.parts" / "1-of-1.jsonl"
    part.write_bytes(part.read_bytes()[:-5])  # the line of 1.png
    assert predict("--threshold", "0.3", "--resume") == 2
    assert "whose threshold is None; here it is 0.3" in capsys.readouterr().err
    assert predict("--resume") == 1
    assert seen[3:] == ["1.png", "2.png", "3.png", "4.png", "5.png", "6.png"]
    assert read(tmp_path / "results.json") == read(tmp_path / "whole.json")


def test_a_shard_looks_again_at_what_it_left_out(predict, photos, tmp_path, monkeypatch, capsys):
    assert predict("--shard", "2/2") == 1  # 1.png, 3.png, 5.png
    assert predict("--shard", "2/2", "--resume") == 1
    assert capsys.readouterr().err.count("1 file left out") == 2
    shutil.copy(photos / "1.png", photos / "5.png")
    seen = []
    original = picture_job.read_image

    def read_image(file, **options):
        seen.append(file.name)
        return original(file, **options)

    monkeypatch.setattr(picture_job, "read_image", read_image)
    assert predict("--shard", "2/2", "--resume") == 0
    assert predict("--shard", "2/2", "--resume") == 0
    assert seen == ["5.png"]
    assert predict("--shard", "1/2") == 0
    assert {result["image_id"] for result in read(tmp_path / "results.json")} == set(range(1, 8))


def test_a_shard_that_used_nothing_is_gone_through_again(predict, photos, tmp_path):
    assert predict("--shard", "6/7") == 2
    shutil.copy(photos / "1.png", photos / "5.png")
    assert predict("--shard", "6/7") == 0


@pytest.mark.parametrize("before", [[], ["--draw", "{tmp}/before"]])
def test_drawings_belong_to_what_is_gone_on_with(predict, tmp_path, capsys, before):
    predict("--shard", "1/2", *(x.format(tmp=tmp_path) for x in before))
    now = ["--draw", tmp_path / "now"]
    assert predict("--shard", "2/2", "--resume", *now) == 2
    folder = tmp_path / "results.json.parts"
    error = capsys.readouterr().err
    assert f"{folder} belongs to another job, whose folder of drawings is" in error
    assert f"Delete {folder}, or name another result" in error


@pytest.mark.parametrize("output", [["--csv", "{tmp}/new.csv"], ["--draw", "{tmp}/new"]])
def test_a_finished_result_gets_no_other_outputs(predict, photos, tmp_path, capsys, output):
    predict(input=photos / "0.png")
    assert predict("--resume", input=photos / "1.png") == 0
    assert "It is kept, whatever pictures and options" in capsys.readouterr().out
    output = [x.format(tmp=tmp_path) for x in output]
    assert predict("--resume", *output, input=photos / "0.png") == 2
    error = capsys.readouterr().err
    assert f"results.json is there already, and {output[1]} is not: --resume" in error
    assert error.count("\n") == 1


def test_a_picture_of_too_few_cells_is_left_out(tmp_path, capsys):
    """DINO takes its queries from the cells of the picture; others of the batch are detected."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in (("a", (96, 64)), ("b", (1400, 200)), ("c", (96, 64))):
        Image.new("RGB", size, (90, 120, 150)).save(photos / f"{name}.png")
    args = ["--weights", "small_sap_dino_detr", "--device", "cpu", "--batch-size", 3]
    args += ["--input", photos, "--json", tmp_path / "results.json"]
    assert cli.main(["predict", *map(str, args)]) == 1
    assert {result["image_id"] for result in read(tmp_path / "results.json")} == {1, 3}
    error = capsys.readouterr().err
    assert f"  {photos / 'b.png'}: the images have" in error
    assert error.count("left out:") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_a_file_name_that_is_not_text(predict, photos, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    file = folder / os.fsdecode(b"bad\xff.png")
    shutil.copy(photos / "0.png", file)
    table = tmp_path / "table.csv"
    args = ["--csv", table, "--threshold", "0", "--draw", tmp_path / "drawn"]
    assert predict(*args, input=folder) == 0
    [image] = read(tmp_path / "results.images.json")["images"]
    assert image["file_name"] == str(file)
    rows = table.read_text(encoding="utf-8").splitlines()
    assert rows[1].startswith(f"{folder}/bad\\udcff.png,1,")
    assert [drawn.name for drawn in (tmp_path / "drawn").iterdir()] == [file.name]


def test_ids_of_annotations(predict, photos, tmp_path, capsys):
    images = [{"id": 50 + n, "file_name": f"photos/{n}.png"} for n in range(5)]
    categories = [{"id": 9, "name": "bird"}, {"id": 4, "name": "dog"}, {"id": 5, "name": "cat"}]
    annotations = tmp_path / "val.json"
    annotations.write_text(json.dumps({"images": images, "categories": categories}))
    assert predict(result="own.json") == 1
    assert predict("--annotations", annotations) == 1
    by_class = [5, 4, 9]
    assert read(tmp_path / "results.json") == [
        {**r, "image_id": r["image_id"] + 49, "category_id": by_class[r["category_id"]]}
        for r in read(tmp_path / "own.json")
        if r["image_id"] <= 5
    ]
    assert not (tmp_path / "results.images.json").exists()
    assert "6.png is not among the images of" in capsys.readouterr().err


def test_a_table_has_what_is_drawn(predict, tmp_path):
    tables = ["--csv", tmp_path / "table.csv", "--draw", tmp_path / "drawn"]
    assert predict(*tables, "--threshold", "0.2", "--classes", "dog", "2") == 1
    results = read(tmp_path / "results.json")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {row["category"] for row in rows} <= {"dog", "bird"}
    assert [float(row["score"]) for row in rows] == [r["score"] for r in results]
    assert min(float(row["score"]) for row in rows) >= 0.2
    assert [float(row["width"]) for row in rows] == [r["bbox"][2] for r in results]
    names = sorted(p.name for p in (tmp_path / "drawn").iterdir())
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "6.png"]


def test_a_table_without_asking_for_scores_has_those_above_one_half(predict, tmp_path):
    predict("--csv", tmp_path / "table.csv")
    best = max(r["score"] for r in read(tmp_path / "results.json"))
    rows = (tmp_path / "table.csv").read_text().splitlines()[1:]
    assert bool(rows) == (best >= 0.5)
    assert min(r["score"] for r in read(tmp_path / "results.json")) < 0.5


@pytest.mark.parametrize(
    "args, message",
    [
        (["--classes", "horse"], "--classes: the model has no class 'horse'; it has cat"),
        (["--shard", "4/3"], "--shard 4/3 is not I/N"),
        (["--csv", "{tmp}/photos/../results.json"], "--csv would replace --json, {tmp}/photos/.."),
        (["--csv", "{tmp}/results.images.json"], "the list of images would replace --csv, "),
        (["--csv", "{tmp}/table.png"], "{tmp}/table.png is named like a picture"),
        (["--csv", "{tmp}/none/table.csv"], "the folder {tmp}/none does not exist"),
        (["--csv", "{tmp}/photos"], "is a folder, it must be a file"),
        (["--annotations", "{tmp}/none.json"], "there is no such annotation file"),
        (["--points", "--batch-size", "2"], "without --tile, --batch-size"),
        (["--opts", "model.num_classes=3"], "give it with --config-file"),
        (["--tile", "10", "10", "10"], "tile is (height, width, overlap)"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(predict, tmp_path, capsys, args, message):
    assert predict(*(arg.format(tmp=tmp_path) for arg in args)) == 2
    error = capsys.readouterr().err
    assert message.format(tmp=tmp_path) in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("results*"))


@pytest.mark.parametrize(
    "args, message",
    [
        (["--video", "a.mp4", "--json", "r.json"], "are for images"),
        (["--video", "a.mp4", "--shard", "1/2"], "--shard is for images"),
        (["--input", "a.jpg", "--max-frames", "3"], "--max-frames is for --video and --webcam"),
        (["--input", "a.jpg", "--annotations", "v.json"], "add one of them"),
        (["--input", "a.jpg", "--resume"], "add one of them"),
        (["--input", "a.jpg"], "does not exist"),
        (["--input", "a.jpg", "--json", "./w.safetensors"], "--json would replace --weights, w."),
        (["--input", "a.jpg", "--json", "v", "--annotations", "v"], "would replace --annotations"),
        (["--input", "a.txt", "--json", "a.txt"], "--json would replace --input, a.txt: name"),
    ],
)
def test_options_that_need_others(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("a.jpg")
    assert cli.main(["predict", "--weights", "w.safetensors", *args]) == 2
    assert message in capsys.readouterr().err


def test_large_pictures_are_looked_at_in_tiles(predict, photos, tmp_path):
    Image.fromarray(np.zeros((100, 160, 3), np.uint8)).save(photos / "0.png")
    predict("--tile", 64, 64, 16, input=photos / "0.png")
    predict(result="whole.json", input=photos / "0.png")
    assert len(read(tmp_path / "results.json")) != len(read(tmp_path / "whole.json"))


def test_ap_of_json_is_that_of_evaluation(tmp_path):
    """To the last digit, of a model that has learnt something, over both formats of results."""
    [model] = [model for model in small_models() if model.name == "small_sap_detr"]
    training = model.training()
    changes = ["dataset.num_train=1", "dataset.num_val=30", "dataset.name=thirty_shapes"]
    places = [f"dataset.folder={tmp_path}/set", f"train.init_checkpoint={model.file}"]
    cfg = load_config(training["config"], [*training["changes"], *changes, *places])
    cfg.train.device = "cpu"
    prepare_data(cfg)
    expected = evaluate(cfg)["bbox"]

    annotations = tmp_path / "set" / "val.json"
    args = ["--annotations", annotations, "--json", tmp_path / "results.json", "--device", "cpu"]
    args = ["--weights", model.name, "--input", tmp_path / "set" / "val", *args]
    assert cli.main(["predict", *map(str, args)]) == 0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 20 < expected["AP"] < 80
    for name, value in zip(("AP", "AP50", "AP75", "APs"), evaluation.stats, strict=False):
        assert 100 * value == expected[name]
