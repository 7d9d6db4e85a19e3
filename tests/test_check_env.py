from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from sap_detr import check_env
from sap_detr.check_env import (
    Report,
    check_dataset_root,
    check_detectron2,
    check_devices,
    check_packages,
    check_pairing,
    check_python,
    import_problem,
    version_problem,
)

NMS_ERROR = RuntimeError("operator torchvision::nms does not exist")


def importer(*modules: str, **failing: Exception):
    """An import function that knows only `modules`, and raises the errors given for others."""

    def import_module(name: str) -> ModuleType:
        if name in failing:
            raise failing[name]
        if name not in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = ModuleType(name)
        module.__version__ = "0.6"
        module.__file__ = f"/site-packages/{name}/__init__.py"
        return module

    return import_module


def fake_torch(cuda: str | None, gpus: int = 0):
    properties = SimpleNamespace(name="Some GPU", total_memory=24 * 2**30)
    return SimpleNamespace(
        __version__="2.14.1",
        version=SimpleNamespace(cuda=cuda, hip=None),
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            get_device_properties=lambda index: properties,
        ),
        get_num_threads=lambda: 2,
    )


FVCORE = "fvcore<0.1.6,>=0.1.5"


@pytest.mark.parametrize("version", ["0.1.5", "0.1.5.post20221221", "0.1.5.9", "0.1.5+local"])
def test_versions_in_range_are_no_problem(version):
    assert version_problem(FVCORE, version) is None


@pytest.mark.parametrize("version", ["2.14.1", "2.14.0+cpu", "2.6.0a0+git1234", "2.5.0a0"])
def test_development_versions_count_as_their_release(version):
    assert version_problem("torch>=2.5", version) is None


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (None, "fvcore is missing"),
        ("0.1.4", "fvcore 0.1.4 does not fit, <0.1.6,>=0.1.5 is needed"),
        ("0.1.6", "fvcore 0.1.6 does not fit, <0.1.6,>=0.1.5 is needed"),
        ("unknown", "fvcore unknown does not fit"),
    ],
)
def test_versions_out_of_range_name_the_command_that_helps(version, words):
    problem = version_problem(FVCORE, version)
    assert problem is not None
    assert words in problem
    assert f"pip install '{FVCORE}'" in problem


def test_what_is_required_is_what_the_installation_says():
    names = {check_env.requirement_name(text) for text in check_env.required_packages()}
    assert {"torch", "Pillow", "opencv-python-headless", "packaging"} <= names
    assert not names & {"pytest", "ruff", "mypy"}


def test_a_missing_hydra_says_what_it_is_for(install):
    report = Report()
    install({}, required=["hydra-core>=1.1"])
    check_packages(report)
    assert report.rows == [("hydra-core", "missing")]
    assert "command line" in report.problems[0]


def test_an_installed_package_that_fails_to_import_is_a_problem(install):
    report = Report()
    versions = {"torch": "2.14.1", "torchvision": "0.29.1"}
    required = ["torch>=2.5", "torchvision>=0.20"]
    install(versions, importer("torch", torchvision=NMS_ERROR), required=required)
    check_packages(report)
    assert report.rows == [("torch", "2.14.1"), ("torchvision", "0.29.1, does not import")]
    assert len(report.problems) == 1
    assert "built for another torch" in report.problems[0]


def test_any_opencv_distribution_will_do(install):
    report = Report()
    required = ["opencv-python-headless>=4.0"]
    install({"opencv-python": "4.9.0"}, importer("cv2"), required=required)
    check_packages(report)
    assert report.problems == []


def test_opencv_without_display_libraries_names_the_headless_edition():
    error = ImportError("libGL.so.1: cannot open shared object file")
    assert "opencv-python-headless" in import_problem("cv2", error)


@pytest.mark.parametrize("torch_version", ["2.14.1", "2.14.1+cpu", None])
def test_matching_torch_and_torchvision(torch_version, install):
    report = Report()
    required = ["numpy", "torch==2.14.1", "pillow!=8.3.*,>=5.3.0"]
    install({"torch": torch_version, "torchvision": "0.29.1"}, required=required)
    check_pairing(report)
    assert report.problems == []


@pytest.mark.parametrize("requirement", ["torch==2.13.0", "torch (==2.13.0)", "torch==2.13.0+cpu"])
def test_mismatched_torch_and_torchvision(requirement, install):
    report = Report()
    required = ["numpy", requirement]
    install({"torch": "2.14.1", "torchvision": "0.28.0"}, required=required)
    check_pairing(report)
    [problem] = report.problems
    assert f"torchvision belongs to {requirement}, but torch is 2.14.1" in problem


@pytest.fixture
def devices(monkeypatch):
    """A function that makes torch and the driver's GPUs be the given ones."""

    def replace(torch: SimpleNamespace, *gpus: str) -> None:
        monkeypatch.setattr(check_env, "import_module", lambda name: torch)
        monkeypatch.setattr(check_env, "visible_nvidia_gpus", lambda: list(gpus))

    return replace


def test_gpus_are_listed_with_their_memory(devices):
    report = Report()
    devices(fake_torch("13.0", gpus=2), "Some GPU", "Some GPU")
    check_devices(report)
    assert ("GPU 1", "Some GPU, 24.0 GiB") in report.rows
    assert report.problems == []


def test_a_machine_without_gpu_is_no_problem(devices):
    report = Report()
    devices(fake_torch("13.0"))
    check_devices(report)
    assert report.rows == [("devices", "CPU only, 2 threads")]
    assert report.problems == []


@pytest.mark.parametrize(
    ("cuda", "words"), [(None, "built for the CPU"), ("13.0", "update the driver")]
)
def test_a_gpu_that_torch_cannot_use_is_a_problem(cuda, words, devices):
    report = Report()
    devices(fake_torch(cuda), "Some GPU")
    check_devices(report)
    assert len(report.problems) == 1
    assert words in report.problems[0]


@pytest.fixture
def install(monkeypatch):
    """A function that makes the versions and modules of an installation be the given ones."""

    def replace(
        versions: dict[str, str], import_module=None, compiled: bool = False, required=()
    ) -> None:
        monkeypatch.setattr(check_env, "required_packages", lambda: required)
        monkeypatch.setattr(check_env.importlib.metadata, "requires", lambda name: required)
        monkeypatch.setattr(check_env, "installed_version", versions.get)
        monkeypatch.setattr(check_env, "import_module", import_module or importer())
        monkeypatch.setattr(check_env, "find_spec", lambda name: object() if compiled else None)

    return replace


DETECTRON2 = ("detectron2", "detectron2.engine", "detectron2.model_zoo")


def test_a_missing_detectron2_says_how_to_install_it(install):
    report = Report()
    install({})
    check_detectron2(report)
    assert report.rows == [("detectron2", "missing")]
    assert "sap-detr install-detectron2" in report.problems[0]


def test_a_detectron2_that_misses_something_itself_is_not_reported_as_missing(install):
    report = Report()
    error = ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")
    import_module = importer("detectron2", "detectron2.engine", **{"detectron2.model_zoo": error})
    install({"detectron2": "0.6"}, import_module)
    check_detectron2(report)
    assert report.rows == [("detectron2", "0.6, does not import")]
    assert "pkg_resources" in report.problems[0]


@pytest.mark.parametrize(
    ("version", "edition"), [("0.6", "official"), ("0.5+purepython.e1", "PyPI sources with edits")]
)
def test_the_edition_of_detectron2_is_told(version, edition, install):
    report = Report()
    install({"detectron2": version}, importer(*DETECTRON2))
    check_detectron2(report)
    assert ("detectron2", f"{version} ({edition})") in report.rows
    assert ("detectron2 at", "/site-packages/detectron2") in report.rows
    assert report.problems == []


def test_compiled_operators_that_do_not_load_are_a_problem(install):
    report = Report()
    import_module = importer(*DETECTRON2, **{"detectron2._C": ImportError("undefined symbol: x")})
    install({"detectron2": "0.6"}, import_module, compiled=True)
    check_detectron2(report)
    assert report.rows[-1] == ("detectron2._C", "compiled, does not load")
    assert "compiled for another torch" in report.problems[0]


def test_a_data_set_root_that_does_not_exist_is_a_problem(tmp_path, monkeypatch):
    report = Report()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    check_dataset_root(report)
    monkeypatch.delenv("DETECTRON2_DATASETS")
    check_dataset_root(report)
    assert report.problems == []
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "absent"))
    check_dataset_root(report)
    assert len(report.problems) == 1


def test_an_old_python_is_a_problem():
    report = Report()
    check_python(report, (3, 9, 18))
    assert "Python 3.9.18 is too old" in report.problems[0]


def test_the_report_lists_rows_then_problems_and_sets_the_exit_status():
    report = Report()
    report.add("torch", "2.14.1")
    assert report.exit_status == 0
    assert "No problems found" in str(report)
    report.add("torchvision", "missing", "torchvision is missing")
    assert report.exit_status == 1
    assert str(report).splitlines() == [
        "torch        2.14.1",
        "torchvision  missing",
        "",
        "1 problem(s):",
        "  - torchvision is missing",
    ]


def test_this_environment_is_in_order(monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    report = check_env.check_environment()
    assert report.problems == []
    assert {"python", "torch", "torchvision", "detectron2", "sap_detr"} <= {
        name for name, _ in report.rows
    }


def test_it_runs_without_any_package():
    # -S leaves out site-packages, so that nothing but the standard library is there.
    root = check_env.Path(check_env.__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, "-S", "-m", "sap_detr.check_env"], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 1, result.stderr
    assert "torch is missing" in result.stdout
    assert "detectron2 is missing" in result.stdout
