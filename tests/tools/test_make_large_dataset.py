"""The data set that starts are measured with is a sound one, of the size that was asked for."""

import json
import os
from pathlib import Path

import make_large_dataset
import pytest
from make_large_dataset import main, write_large_dataset

from sap_detr.data import dataset_records, register_coco_folder
from sap_detr.data.inspection import check_datasets


def test_is_sound_and_of_the_size_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_large_dataset, "_LINKS_PER_PICTURE", 4)
    folder = tmp_path / "large"
    assert main([str(folder), "--images", "10", "--boxes", "25"]) == 0
    names = register_coco_folder("large_dataset", folder)
    inspection = check_datasets(names[:1], names[1:])
    assert not any(findings.of("error") for findings in inspection.all_findings())
    dicts = dataset_records("large_dataset_train")
    assert [len(record["annotations"]) for record in dicts] == [3, 2] * 5
    # Three pictures for ten names.
    assert len({os.stat(record["file_name"]).st_ino for record in dicts}) == 3
    assert "info" in json.loads((folder / "train.json").read_text())


def test_never_writes_into_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        write_large_dataset(tmp_path, images=1, boxes=1)
    assert main([str(tmp_path)]) == 2
