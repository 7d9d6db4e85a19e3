from pathlib import Path

import pytest
import torch

from sap_detr import model_zoo
from sap_detr.checkpoint import save_checkpoint_file
from sap_detr.weights_files import FOLDER_VARIABLE

SMALL = "detr/detr_small_shapes.py"


@pytest.fixture(autouse=True)
def _without_user_settings(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


def test_recipes_are_listed_and_found():
    names = model_zoo.list_configs()
    assert {SMALL, "detr/detr_r50_500ep.py", "detr/detr_dc5_r50_500ep.py"} <= set(names)
    assert len(set(names)) == len(names)
    assert not any(name.startswith("common/") for name in names)
    for name in names:
        assert Path(model_zoo.get_config_file(name)).is_file()


@pytest.mark.parametrize("name", [SMALL, "detr/detr_small_shapes", f"configs/{SMALL}"])
def test_ending_and_folder_may_be_left_out(name):
    assert Path(model_zoo.get_config_file(name)).name == "detr_small_shapes.py"


def test_unknown_name_gives_close_ones_and_all():
    with pytest.raises(FileNotFoundError) as error:
        model_zoo.get_config_file("detr/detr_r50_50ep.py")
    message = str(error.value)
    close = message.partition("Close names: ")[2].partition(". ")[0]
    assert "detr/detr_r50_500ep" in close
    assert all(name in message for name in model_zoo.list_configs())


def test_model_has_the_given_number_of_classes_and_needs_no_data(tmp_path):
    model = model_zoo.get(SMALL, num_classes=4)
    assert not model.training
    assert model.num_classes == 4
    assert model.decoder.class_head.out_features == 5
    assert list(tmp_path.iterdir()) == []
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert model.device.type == expected


def test_number_of_classes_is_that_of_the_data_by_default():
    assert model_zoo.get("detr/detr_r50_500ep.py").num_classes == 80


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file_or_from_the_folder(tmp_path, monkeypatch, suffix):
    model = model_zoo.get(SMALL, num_classes=4)
    file = tmp_path / "weights" / ("detr/detr_small_shapes" + suffix)
    file.parent.mkdir(parents=True)
    save_checkpoint_file({"model": model.state_dict()}, file)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "weights"))
    for trained in (str(file), file, True):
        assert model_zoo.get_config(SMALL, trained).train.init_checkpoint == str(file)
        again = model_zoo.get(SMALL, trained=trained, num_classes=4).state_dict()
        for name, tensor in model.state_dict().items():
            assert torch.equal(again[name], tensor), name


def test_without_trained_the_weights_are_random():
    first, second = (model_zoo.get(SMALL, num_classes=4).state_dict() for _ in range(2))
    assert not torch.equal(first["decoder.class_head.weight"], second["decoder.class_head.weight"])


def test_trained_needs_the_variable():
    with pytest.raises(FileNotFoundError, match="SAP_DETR_CHECKPOINTS"):
        model_zoo.get(SMALL, trained=True, num_classes=4)


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"detr_small_shapes\.safetensors.*\.pth"):
        model_zoo.get_config(SMALL, trained=True)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*gone\.pth"):
        model_zoo.get_config(SMALL, trained=str(tmp_path / "gone.pth"))
    # Not random weights.
    with pytest.raises(FileNotFoundError, match="no checkpoint file ''"):
        model_zoo.get(SMALL, trained="", num_classes=4)
