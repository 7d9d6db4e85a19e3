from __future__ import annotations

import hashlib

import pytest

from sap_detr.cli import main
from sap_detr.commands import install_detectron2
from sap_detr.commands.install_detectron2 import (
    Edit,
    InstallError,
    apply_edits,
    check_sha256,
)


def write_package(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_edits_of_one_file_are_applied_in_order(tmp_path):
    package = write_package(tmp_path, a="x = np.int\ny = np.int\nimport z\n")
    edits = [Edit("a.py", "np.int", "int", "", count=2), Edit("a.py", "x = int\n", "", "")]
    apply_edits(package, edits)
    assert (package / "a.py").read_text() == "y = int\nimport z\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = 1\n", "found it 0 time"), ("np.int, np.int", "found it 2 time")],
)
def test_an_edit_that_matches_another_number_of_times_is_an_error(tmp_path, text, words):
    package = write_package(tmp_path, b=text)
    with pytest.raises(InstallError, match=words) as error:
        apply_edits(package, [Edit("b.py", "np.int", "int", "")])
    assert "b.py" in str(error.value)
    assert "'np.int' 1 time" in str(error.value)


def test_the_hash_is_checked(tmp_path):
    path = tmp_path / "sdist.tar.gz"
    path.write_bytes(b"content")
    check_sha256(path, hashlib.sha256(b"content").hexdigest())
    with pytest.raises(InstallError, match=r"sdist\.tar\.gz: SHA-256"):
        check_sha256(path, install_detectron2.SDIST_SHA256)


def test_a_wrong_sdist_ends_the_script_before_anything_is_installed(tmp_path, capsys, monkeypatch):
    path = tmp_path / "sdist.tar.gz"
    path.write_bytes(b"content")
    commands = []
    monkeypatch.setattr(install_detectron2, "_run_python", lambda *args: commands.append(args))
    assert main(["install-detectron2", "--force", "--sdist", str(path)]) == 2
    assert "SHA-256" in capsys.readouterr().err
    assert commands == []


def test_every_edit_changes_something_and_says_why():
    for edit in install_detectron2.EDITS:
        assert edit.old != edit.new
        assert edit.why
        assert edit.count >= 1


def test_the_version_changes_with_the_edits():
    edits = install_detectron2.EDITS
    version = install_detectron2.edited_version(edits)
    assert version.startswith("0.5+purepython.e")
    assert install_detectron2.edited_version(edits) == version
    assert install_detectron2.edited_version(edits[:-1]) != version


def test_another_edition_of_our_own_is_replaced(monkeypatch):
    monkeypatch.setattr(install_detectron2, "installed_version", lambda name: "0.5+purepython.e0")
    assert install_detectron2.existing_installation() is None


def test_the_installed_detectron2_is_kept(capsys, monkeypatch):
    monkeypatch.setattr(install_detectron2, "install", lambda sdist: pytest.fail("installed"))
    assert main(["install-detectron2"]) == 0
    assert "Keeping Detectron2" in capsys.readouterr().out
