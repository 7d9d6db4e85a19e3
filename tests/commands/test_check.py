"""The command line that checks a data set."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from sap_detr.cli import main as sap_detr
from sap_detr.config import load_config, num_queries
from sap_detr.engine.main import main


def write_split(folder, name, boxes, first_id=1):
    """A split of as many images as there are lists of boxes."""
    (folder / name).mkdir(parents=True)
    images, annotations = [], []
    for i, of_image in enumerate(boxes):
        pixels = np.random.RandomState(first_id + i).randint(0, 256, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 40, "height": 30})
        annotations += [{"image_id": i, "category_id": 1, "bbox": box} for box in of_image]
    for i, annotation in enumerate(annotations, 1):
        annotation.update(id=i, iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    content = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    write_split(tmp_path / "set", "train", [[[1, 2, 10, 10]], [[5, 5, 9, 9], [20, 3, 9, 9]]])
    write_split(tmp_path / "set", "val", [[[1, 2, 10, 10]]], first_id=50)
    return tmp_path / "set"


def run(*args, workers=0):
    return sap_detr(["check", *map(str, args), "--workers", str(workers)])


def test_a_good_folder(folder, tmp_path, capsys):
    report = tmp_path / "report.json"
    args = ["--folder", folder, "--strict", "--full", "--json", report, "--num-queries", 2]
    assert run(*args, workers=2) == 0
    out, err = capsys.readouterr()
    assert "Nothing is wrong." in out
    assert "cell" in out
    assert "█" in out
    assert "2/2" in err  # the progress
    record = json.loads(report.read_text())
    assert (record["errors"], record["warnings"], record["exit_code"]) == (0, 0, 0)
    assert [split["name"] for split in record["splits"]] == ["train", "val"]
    assert record["splits"][0]["objects"] == 3


def test_warnings_count_only_if_strict(folder, capsys):
    args = ["--folder", folder, "--num-queries", 1]
    assert run(*args) == 0
    assert "2 objects, 1 queries" in capsys.readouterr().out
    assert run(*args, "--strict") == 1


def test_errors_and_the_sheet(folder, tmp_path, capsys):
    Image.new("RGB", (41, 30)).save(folder / "train" / "0.png")
    (folder / "val" / "0.png").unlink()
    sheet, report = tmp_path / "findings.png", tmp_path / "report.json"
    assert run("--folder", folder, "--sheet", sheet, "--json", report) == 2
    out = capsys.readouterr().out
    assert "the image is 41x30" in out
    assert "there is no such file" in out
    assert f"Pictures: {sheet}" in out
    assert Image.open(sheet).width > 480
    record = json.loads(report.read_text())
    assert (record["errors"], record["exit_code"]) == (2, 2)


def test_files_and_folders(folder, capsys):
    files = ["--annotations", folder / "train.json", folder / "val.json"]
    assert run(*files, "--images", folder / "train", folder / "val") == 0
    assert "train: " in capsys.readouterr().out
    # The same split twice is one that leaks into the other.
    files = ["--annotations", folder / "train.json", folder / "train.json"]
    assert run(*files, "--images", folder / "train", folder / "train", "--strict") == 1
    assert "are both trained on and evaluated" in capsys.readouterr().out
    assert run(*files, "--images", folder / "train") == 2
    assert "--images" in capsys.readouterr().err


def test_the_data_and_queries_of_a_config(shapes_folder, tiny_overrides, capsys):
    args = ["--config-file", "detr/detr_small_shapes.py"]
    assert run(*args, "--opts", *tiny_overrides, "model.decoder.num_queries=1") == 0
    out = capsys.readouterr().out
    assert "tiny_shapes_train: " in out
    assert "tiny_shapes_val: " in out
    assert "objects, 1 queries" in out
    assert run("--names", "tiny_shapes_val") == 0
    assert "5, " in capsys.readouterr().out


def test_a_run_of_the_config_says_the_same(tiny_overrides, tmp_path, capsys):
    config = ["--config-file", "detr/detr_small_shapes.py"]
    changes = [*tiny_overrides, "model.decoder.num_queries=1", "train.max_iter=1"]
    changes += ["train.eval_period=0"]
    report = tmp_path / "report.json"
    assert run(*config, "--json", report, "--opts", *changes) == 0
    record = json.loads(report.read_text())
    warned = [f for s in record["splits"] for f in s["findings"] if f["severity"] == "warning"]
    assert len(warned) >= 2
    assert main([*config, *changes]) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    for finding in warned:
        assert f"{finding['count']} {finding['kind']}" in log


def test_a_folder_without_a_validation_split(tiny_overrides, shapes_folder, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "run"
    for split, name in (("train", "train"), ("val", "test")):
        shutil.copytree(shapes_folder / "set" / split, data / name)
        shutil.copy(shapes_folder / "set" / f"{split}.json", data / f"{name}.json")
    assert run("--folder", data, "--strict") == 1
    assert "nothing to evaluate" in capsys.readouterr().out
    config = ["--config-file", "detr/detr_small_custom.py"]
    changes = [change for change in tiny_overrides if not change.startswith("dataset.")]
    changes += ["dataset.name=no_val", f"dataset.folder={data}", "train.max_iter=1"]
    assert main([*config, *changes]) == 0
    log = (out / "log.txt").read_text()
    assert "nothing to evaluate: training runs without AP" in log
    assert "dataset.val=test" in log
    assert (out / "model_final.pth").is_file()
    assert not (out / "model_best.pth").exists()
    changes.append(f"train.init_checkpoint={out}/model_final.pth")
    capsys.readouterr()
    assert main([*config, "--eval-only", *changes]) == 2
    assert "dataset.val=test" in capsys.readouterr().err
    assert main([*config, "--eval-only", *changes, "dataset.val=test"]) == 0
    assert "results on no_val_val in csv format" in (out / "log.txt").read_text()


def test_bad_files_are_all_counted_and_listed(tmp_path, capsys):
    """None of them ends the check, and the exit status says that there were some."""
    folder = tmp_path / "set"
    write_split(folder, "train", [[[1, 2, 10, 10]]] * 7)
    write_split(folder, "val", [[[1, 2, 10, 10]]], first_id=50)
    empty, text, cut, missing, place, wide = (folder / "train" / f"{i}.png" for i in range(6))
    whole = cut.read_bytes()
    empty.write_bytes(b"")
    text.write_text("<html>not found</html>")
    cut.write_bytes(whole[: len(whole) // 2])
    missing.unlink()
    place.unlink()
    place.mkdir()
    pixels = np.asarray(Image.open(wide).convert("L")).astype(np.float32) * 1000
    Image.fromarray(pixels).save(wide, "TIFF")
    report, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    assert run("--folder", folder, "--json", report, "--sheet", sheet) == 2
    assert "val: " in capsys.readouterr().out
    record = json.loads(report.read_text())
    train, val = record["splits"]
    found = {f["kind"]: f for f in train["findings"] if f["severity"] == "error"}
    files = {
        "empty image files": empty,
        "files that are not images": text,
        "damaged image files": cut,
        "images whose pixels can't be converted to 8 bits": wide,
    }
    for kind, file in files.items():
        assert found[kind]["count"] == 1
        assert found[kind]["examples"][0]["files"] == [str(file)]
    assert found["missing image files"]["count"] == 2
    assert record["errors"] == 6
    assert train["readable_images"] == train["images"] - 6
    assert val["readable_images"] == val["images"]


@pytest.mark.parametrize(
    ("name", "number"), [("detr/detr_r50_500ep.py", 100), ("sap_detr/sap_detr_r50_50ep.py", 306)]
)
def test_number_of_queries(name, number):
    assert num_queries(load_config(name)) == number


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give --folder, --annotations, --names or --config-file"),
        (["--folder", "{tmp}/none"], "none, the folder of the data set, is missing"),
        (["--folder", "{tmp}"], "no train split in a known format"),
        (["--names", "pest"], "no data set 'pest'"),
        (["--config-file", "pest"], "'pest' is neither a file nor a config"),
        (["--folder", "{tmp}/set", "--json", "{tmp}/no/a.json"], "no folder"),
    ],
)
def test_what_can_not_be_checked(args, message, folder, tmp_path, capsys):
    assert run(*[arg.format(tmp=tmp_path) for arg in args]) == 2
    assert message in capsys.readouterr().err


def test_annotations_that_are_no_json(folder, capsys):
    (folder / "val.json").write_text("{")
    assert run("--folder", folder) == 2
    out = capsys.readouterr().out
    assert "val.json: not valid json" in out
    assert "train: " in out
