from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from sap_detr.cli import main
from sap_detr.commands import install_detectron2
from sap_detr.commands.install_detectron2 import (
    Edit,
    InstallError,
    apply_edits,
    check_sha256,
    unpack,
)


def write_package(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def write_archive(path, *members):
    """A .tar.gz of (TarInfo or name, text) members."""
    with tarfile.open(path, "w:gz") as tar:
        for member, text in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_edits_of_one_file_are_applied_in_order(tmp_path):
    package = write_package(tmp_path, a="x = np.int\ny = np.int\nimport z\n")
    edits = [Edit("a.py", "np.int", "int", "", count=2), Edit("a.py", "x = int\n", "", "")]
    apply_edits(package, edits)
    assert (package / "a.py").read_text() == "y = int\nimport z\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [("x = 1\n", "found it 0 time"), ("np.int, np.int", "found it 2 time")],
)
def test_an_edit_that_matches_another_number_of_times_changes_nothing(tmp_path, text, words):
    package = write_package(tmp_path, a="import z\n", b=text)
    edits = [Edit("a.py", "import z", "import y", ""), Edit("b.py", "np.int", "int", "")]
    with pytest.raises(InstallError, match=words) as error:
        apply_edits(package, edits)
    assert "b.py" in str(error.value)
    assert "'np.int' 1 time" in str(error.value)
    assert (package / "a.py").read_text() == "import z\n"


def test_an_edit_of_a_missing_file_names_the_file(tmp_path):
    with pytest.raises(InstallError, match=r"layers/gone\.py"):
        apply_edits(tmp_path, [Edit("layers/gone.py", "a", "b", "")])


def test_the_hash_is_checked(tmp_path):
    path = tmp_path / "sdist.tar.gz"
    path.write_bytes(b"content")
    check_sha256(path, hashlib.sha256(b"content").hexdigest())
    with pytest.raises(InstallError, match=r"sdist\.tar\.gz: SHA-256"):
        check_sha256(path, install_detectron2.SDIST_SHA256)


def test_a_wrong_sdist_ends_the_script_before_anything_is_installed(tmp_path, capsys, monkeypatch):
    path = write_archive(tmp_path / "sdist.tar.gz", ("top/a.py", "x"))
    commands = []
    monkeypatch.setattr(install_detectron2, "_run_python", lambda *args: commands.append(args))
    assert main(["install-detectron2", "--force", "--sdist", str(path)]) == 2
    assert "SHA-256" in capsys.readouterr().err
    assert commands == []


def test_unpack_returns_the_top_folder(tmp_path):
    archive = write_archive(tmp_path / "a.tar.gz", ("top/a.py", "x"), ("top/b/c.py", "y"))
    top = unpack(archive, tmp_path / "out")
    assert top == (tmp_path / "out" / "top").resolve()
    assert (top / "b" / "c.py").read_text() == "y"


@pytest.mark.parametrize("name", ["../a.py", "/tmp/a.py", "top/../../a.py"])
def test_unpack_refuses_paths_that_lead_out(tmp_path, name):
    archive = write_archive(tmp_path / "a.tar.gz", ("top/ok.py", "x"), (name, "x"))
    with pytest.raises(InstallError, match="refusing to unpack"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unpack_refuses_links(tmp_path):
    link = tarfile.TarInfo("top/link")
    link.type = tarfile.SYMTYPE
    link.linkname = "ok.py"
    archive = write_archive(tmp_path / "a.tar.gz", ("top/ok.py", "x"), (link, ""))
    with pytest.raises(InstallError, match="top/link"):
        unpack(archive, tmp_path / "out")


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
    monkeypatch.setattr(install_detectron2, "_installed_version", lambda: "0.5+purepython.e0")
    assert install_detectron2.existing_installation() is None


def test_the_installed_detectron2_is_kept(capsys, monkeypatch):
    monkeypatch.setattr(install_detectron2, "install", lambda sdist: pytest.fail("installed"))
    assert main(["install-detectron2"]) == 0
    assert "Keeping Detectron2" in capsys.readouterr().out
