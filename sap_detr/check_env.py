"""What is installed, whether it fits together, and what to do if it does not.

    python -m sap_detr.check_env

prints a table of versions, devices, and paths, then one line per problem. The exit status is 1 if
there is any. Nothing but the standard library is needed: this runs where anything is missing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import sap_detr

MINIMUM_PYTHON = (3, 10)

# tools/install_detectron2.py gives the edition that it installs a version with this beginning.
PYPI_EDITION = "0.5+purepython"

INSTALL_DETECTRON2 = (
    "run `python tools/install_detectron2.py` in a checkout of this project, or install the "
    "official repository with `pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'`"
)


# Modules that are not called like their distribution.
MODULES = {"opencv-python-headless": "cv2", "Pillow": "PIL", "hydra-core": "hydra"}

# cv2 comes from several distributions, of which one is enough.
OTHER_OPENCV = ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")

HINTS = {
    "hydra-core": "without it no setting can be given on the command line",
    "opencv-python-headless": "Detectron2's visualizer imports it",
}


@dataclass
class Report:
    """Rows (name, value) of the table and the problems found, one line each."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, value: str, problem: str | None = None) -> None:
        """Add a row, and a problem if there is one."""
        self.rows.append((name, value))
        if problem is not None:
            self.problems.append(problem)

    @property
    def exit_status(self) -> int:
        """1 if there is any problem, else 0."""
        return 1 if self.problems else 0

    def __str__(self) -> str:
        width = max((len(name) for name, _ in self.rows), default=0)
        lines = [f"{name:<{width}}  {value}" for name, value in self.rows]
        if self.problems:
            lines += ["", f"{len(self.problems)} problem(s):"]
            lines += [f"  - {problem}" for problem in self.problems]
        else:
            lines += ["", "No problems found."]
        return "\n".join(lines)


VersionOf = Callable[[str], "str | None"]
ImportModule = Callable[[str], ModuleType]


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None. Import nothing of it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def required_packages() -> list[str]:
    """Return what this project's installation says it needs, such as ``torch>=2.5``.

    Where it is not installed, but run in its folder, only what nothing works without.
    """
    try:
        requirements = importlib.metadata.requires("sap-detr") or []
    except importlib.metadata.PackageNotFoundError:
        return ["torch", "torchvision", "packaging"]
    return [requirement for requirement in requirements if "extra ==" not in requirement]


def first_line(error: BaseException) -> str:
    """Return the error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def check_python(report: Report, version: tuple[int, ...] = sys.version_info[:3]) -> None:
    """Add the interpreter and the platform."""
    text = ".".join(map(str, version))
    problem = None
    if version[:2] < MINIMUM_PYTHON:
        minimum = ".".join(map(str, MINIMUM_PYTHON))
        problem = f"Python {text} is too old: make an environment with Python {minimum} or later"
    report.add("python", f"{text} at {sys.executable}", problem)
    report.add("platform", platform.platform())


def version_problem(requirement: str, version: str | None) -> str | None:
    """Return what is wrong with the installed version (None: not installed), or None.

    Args:
        requirement: such as ``torch>=2.5``.
        version: where it is a development or local version, its release counts.
    """
    name, specifier = split_requirement(requirement)
    fix = f"`pip install '{requirement}'`"
    if version is None:
        reason = f" ({HINTS[name]})" if name in HINTS else ""
        return f"{name} is missing{reason}: {fix}"
    try:
        packaging_version = importlib.import_module("packaging.version")
        specifiers = importlib.import_module("packaging.specifiers").SpecifierSet(specifier)
    except ImportError:  # which is a problem of its own
        return None
    try:
        fits = specifiers.contains(packaging_version.Version(version).base_version)
    except packaging_version.InvalidVersion:
        fits = not specifier
    return None if fits else f"{name} {version} does not fit, {specifier} is needed: {fix}"


def split_requirement(requirement: str) -> tuple[str, str]:
    """Return the name and the versions of a requirement: ``torch>=2.5`` is torch and >=2.5."""
    found = re.match(r"([\w.-]+)\s*([^;]*)", requirement)
    return (found.group(1), found.group(2).strip()) if found else (requirement, "")


def import_problem(module: str, error: BaseException) -> str:
    """Return what an installed module's failing import means, and what to do."""
    message = f"{module} is installed but does not import ({first_line(error)})"
    if "torchvision::nms does not exist" in str(error):
        return (
            f"{message}: torchvision was built for another torch, often for CUDA where torch is "
            "built for the CPU; reinstall both in one pip command and from the same index"
        )
    if module == "cv2" and "libGL" in str(error):
        return (
            f"{message}: this machine has no display libraries; `pip uninstall opencv-python`, "
            "then `pip install --force-reinstall opencv-python-headless`"
        )
    return f"{message}: reinstall it with `pip install --force-reinstall --no-deps`"


def check_packages(
    report: Report,
    requirements: Sequence[str],
    version_of: VersionOf = installed_version,
    import_module: ImportModule = importlib.import_module,
) -> dict[str, ModuleType]:
    """Add a row for every requirement and return the modules that import, by module name."""
    modules: dict[str, ModuleType] = {}
    for requirement in requirements:
        name, _ = split_requirement(requirement)
        module = MODULES.get(name, name)
        names = (name, *OTHER_OPENCV) if module == "cv2" else (name,)
        version = next((found for name in names if (found := version_of(name))), None)
        problem = version_problem(requirement, version)
        value = version or "missing"
        if version is not None:
            # Compiled packages fail with whatever their loader raises, not only ImportError.
            try:
                modules[module] = import_module(module)
            except Exception as error:
                value = f"{version}, does not import"
                problem = problem or import_problem(module, error)
        report.add(name, value, problem)
    return modules


def torchvision_pairing_problem(
    torch_version: str | None, torchvision_requires: Sequence[str]
) -> str | None:
    """Return what is wrong if torchvision's metadata ask for another torch than the installed one.

    `torchvision_requires` are its requirements as strings; published wheels name one torch exactly.
    """
    for requirement in torchvision_requires if torch_version else ():
        found = re.match(r"torch\s*\(?==\s*([^\s;)+]+)", requirement)
        if torch_version and found and found.group(1) != torch_version.partition("+")[0]:
            return (
                f"torchvision belongs to torch {found.group(1)}, but torch is {torch_version}: "
                "install a matching pair with one command, `pip install -U torch torchvision`"
            )
    return None


def visible_nvidia_gpus() -> list[str]:
    """Return the names of this machine's NVIDIA GPUs that the driver knows, whatever torch sees."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return result.stdout.strip().splitlines() if result.returncode == 0 else []


def check_devices(report: Report, torch: Any, gpus: Sequence[str]) -> None:
    """Add the devices torch can use; `gpus` are those that the driver knows."""
    if torch.cuda.is_available():
        report.add("CUDA", f"{torch.version.cuda or torch.version.hip}")
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gibibytes = properties.total_memory / 2**30
            report.add(f"GPU {index}", f"{properties.name}, {gibibytes:.1f} GiB")
        return
    problem = None
    if gpus and torch.version.cuda is None:
        problem = (
            f"this machine has a GPU ({gpus[0]}), but torch {torch.__version__} is built for the "
            "CPU: install torch and torchvision built for CUDA"
        )
    elif gpus:
        problem = (
            f"this machine has a GPU ({gpus[0]}), but torch, built for CUDA {torch.version.cuda}, "
            "cannot use it: update the driver, or see whether CUDA_VISIBLE_DEVICES hides it"
        )
    report.add("devices", f"CPU only, {torch.get_num_threads()} threads", problem)


def check_detectron2(
    report: Report,
    version_of: VersionOf = installed_version,
    import_module: ImportModule = importlib.import_module,
    find_spec: Callable[[str], Any] = importlib.util.find_spec,
) -> None:
    """Add which Detectron2 this is, where it is, and whether it has compiled operators."""
    distribution_version = version_of("detectron2")
    try:
        module = import_module("detectron2")
        import_module("detectron2.engine")
        import_module("detectron2.model_zoo")
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "detectron2":
            report.add("detectron2", "missing", f"detectron2 is missing: {INSTALL_DETECTRON2}")
        else:
            report.add(
                "detectron2",
                f"{distribution_version}, does not import",
                f"detectron2 does not import ({first_line(error)}): repair what the message names, "
                f"or uninstall it and {INSTALL_DETECTRON2}",
            )
        return
    version = distribution_version or module.__version__
    edition = "PyPI sources with edits" if version.startswith(PYPI_EDITION) else "official"
    report.add("detectron2", f"{version} ({edition})")
    report.add("detectron2 at", str(Path(str(module.__file__)).parent))

    name = "detectron2._C"
    if find_spec(name) is None:
        report.add(name, "not compiled (no rotated boxes; nothing here needs it)")
        return
    try:
        import_module(name)
    except Exception as error:
        report.add(
            name,
            "compiled, does not load",
            f"{name} does not load ({first_line(error)}): Detectron2 was compiled for another "
            "torch; uninstall it and compile it again",
        )
    else:
        report.add(name, "compiled")


def check_dataset_root(report: Report, environment: Mapping[str, str]) -> None:
    """Add the folder in which Detectron2 looks for data sets."""
    root = environment.get("DETECTRON2_DATASETS")
    if root is None:
        found = "" if Path("datasets").is_dir() else ", does not exist"
        report.add("data sets", f"./datasets{found} (DETECTRON2_DATASETS is not set)")
    elif Path(root).expanduser().is_dir():
        report.add("data sets", f"{root} (DETECTRON2_DATASETS)")
    else:
        report.add(
            "data sets",
            f"{root}, does not exist (DETECTRON2_DATASETS)",
            f"DETECTRON2_DATASETS names {root}, which is not a folder: create it or set the "
            "variable to the folder that holds coco/ and other data sets",
        )


def check_environment() -> Report:
    """Look at everything and return the report."""
    report = Report()
    check_python(report)
    location = Path(sap_detr.__file__).resolve().parent
    report.add("sap_detr", f"{sap_detr.__version__} at {location}")
    modules = check_packages(report, required_packages())
    if installed_version("torchvision") is not None:
        requires = importlib.metadata.requires("torchvision") or []
        pairing = torchvision_pairing_problem(installed_version("torch"), requires)
        report.problems += [pairing] if pairing else []
    if "torch" in modules:
        check_devices(report, modules["torch"], visible_nvidia_gpus())
    check_detectron2(report)
    check_dataset_root(report, os.environ)
    return report


def main() -> int:
    """Print the report; return 1 if there is a problem, else 0."""
    with warnings.catch_warnings():
        # Other packages' deprecations would hide the few lines that matter here.
        warnings.simplefilter("ignore")
        report = check_environment()
    print(report)
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
