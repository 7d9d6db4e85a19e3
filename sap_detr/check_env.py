"""What is installed, whether it fits together, and what to do if it does not.

    python -m sap_detr.check_env

prints a table of versions, devices, and paths, then one line per problem. The exit status is 1 if
there is any. Nothing but the standard library is needed: this runs where anything is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import sap_detr

try:
    from packaging.requirements import Requirement
    from packaging.version import InvalidVersion, Version
except ImportError:
    PACKAGING = False  # a problem that is told with the others
else:
    PACKAGING = True

MINIMUM_PYTHON = (3, 10)

# `sap-detr install-detectron2` gives the edition that it installs a version with this beginning.
PYPI_EDITION = "0.5+purepython"

INSTALL_DETECTRON2 = (
    "run `sap-detr install-detectron2`, or install the official repository with "
    "`pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'`"
)

# Modules that are not called like their distribution. cv2 comes from several, one is enough.
MODULES = {"opencv-python-headless": "cv2", "Pillow": "PIL", "hydra-core": "hydra"}
OTHER_OPENCV = ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")

HINTS = {
    "hydra-core": " (without it no setting can be given on the command line)",
    "opencv-python-headless": " (Detectron2's visualizer imports it)",
}
# Part of the message of a failing import: what it means, and what to do.
KNOWN_ERRORS = {
    "torchvision::nms does not exist": "torchvision was built for another torch, often for CUDA "
    "where torch is built for the CPU; reinstall both in one pip command and from the same index",
    "libGL": "this machine has no display libraries; `pip uninstall opencv-python`, then "
    "`pip install --force-reinstall opencv-python-headless`",
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
        count = f"{len(self.problems)} problem(s):" if self.problems else "No problems found."
        return "\n".join([*lines, "", count, *(f"  - {problem}" for problem in self.problems)])


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None. Import nothing of it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def required_packages() -> list[str]:
    """Return what this project's installation says it needs, such as ``torch>=2.5``.

    Where it is not installed, only what nothing works without.
    """
    try:
        requirements = importlib.metadata.requires("sap-detr") or []
    except importlib.metadata.PackageNotFoundError:
        return ["torch", "torchvision", "packaging"]
    return [text for text in requirements if "extra ==" not in text]


def import_error(*modules: str) -> Exception | None:
    """Import modules; return the error with which the first of them fails, or None."""
    try:
        for module in modules:
            import_module(module)
    except Exception as error:  # compiled packages fail with whatever their loader raises
        return error
    return None


def first_line(error: BaseException) -> str:
    """Return the error's type and the first line of its message."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def check_python(report: Report, version: tuple[int, ...] = sys.version_info[:3]) -> None:
    """Add the interpreter, the platform, and this project."""
    text, minimum = (".".join(map(str, numbers)) for numbers in (version, MINIMUM_PYTHON))
    problem = f"Python {text} is too old: make an environment with Python {minimum} or later"
    old = version[:2] < MINIMUM_PYTHON
    report.add("python", f"{text} at {sys.executable}", problem if old else None)
    report.add("platform", platform.platform())
    location = Path(sap_detr.__file__).resolve().parent
    report.add("sap_detr", f"{sap_detr.__version__} at {location}")


def requirement_name(requirement: str) -> str:
    """Return the distribution that a requirement is about."""
    return re.split(r"[^\w.-]", requirement)[0]


def version_problem(requirement: str, version: str | None) -> str | None:
    """Return what is wrong with the installed version (None: not installed), or None.

    Args:
        requirement: such as ``torch>=2.5``.
        version: where it is a development or local version, its release counts.
    """
    name, fix = requirement_name(requirement), f"`pip install '{requirement}'`"
    if version is None:
        return f"{name} is missing{HINTS.get(name, '')}: {fix}"
    if not PACKAGING:
        return None
    specifier = Requirement(requirement).specifier
    try:
        fits = specifier.contains(Version(version).base_version)
    except InvalidVersion:
        fits = not specifier
    return None if fits else f"{name} {version} does not fit, {specifier} is needed: {fix}"


def import_problem(module: str, error: BaseException) -> str:
    """Return what an installed module's failing import means, and what to do."""
    meanings = (meaning for part, meaning in KNOWN_ERRORS.items() if part in str(error))
    advice = next(meanings, "reinstall it with `pip install --force-reinstall --no-deps`")
    return f"{module} is installed but does not import ({first_line(error)}): {advice}"


def check_packages(report: Report) -> None:
    """Add a row for everything that this project requires."""
    for requirement in required_packages():
        name = requirement_name(requirement)
        module = MODULES.get(name, name)
        names = (name, *OTHER_OPENCV) if module == "cv2" else (name,)
        version = next(filter(None, map(installed_version, names)), None)
        problem, value = version_problem(requirement, version), version or "missing"
        if version is not None and (error := import_error(module)):
            value += ", does not import"
            problem = problem or import_problem(module, error)
        report.add(name, value, problem)


def check_pairing(report: Report) -> None:
    """Add a problem if torchvision's metadata ask for another torch than the installed one."""
    version = installed_version("torch")
    if version is None or installed_version("torchvision") is None:
        return
    for requirement in importlib.metadata.requires("torchvision") or []:
        # Published wheels name one torch exactly.
        release = re.sub(r"\+[\w.]+", "", requirement)
        if requirement_name(requirement) == "torch" and version_problem(release, version):
            report.problems.append(
                f"torchvision belongs to {requirement}, but torch is {version}: "
                "install a matching pair with one command, `pip install -U torch torchvision`"
            )


def visible_nvidia_gpus() -> list[str]:
    """Return the names of this machine's NVIDIA GPUs that the driver knows, whatever torch sees."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return result.stdout.strip().splitlines() if result.returncode == 0 else []


def check_devices(report: Report) -> None:
    """Add the devices torch can use."""
    if import_error("torch"):  # which is a problem of its own
        return
    torch = import_module("torch")
    if torch.cuda.is_available():
        report.add("CUDA", f"{torch.version.cuda or torch.version.hip}")
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gibibytes = properties.total_memory / 2**30
            report.add(f"GPU {index}", f"{properties.name}, {gibibytes:.1f} GiB")
        return
    report.add("devices", f"CPU only, {torch.get_num_threads()} threads")
    if known := visible_nvidia_gpus():
        reason = (
            f"torch {torch.__version__} is built for the CPU: install torch and torchvision built "
            "for CUDA"
            if torch.version.cuda is None
            else f"torch, built for CUDA {torch.version.cuda}, cannot use it: update the driver, "
            "or see whether CUDA_VISIBLE_DEVICES hides it"
        )
        report.problems.append(f"this machine has a GPU ({known[0]}), but {reason}")


def check_detectron2(report: Report) -> None:
    """Add which Detectron2 this is, where it is, and whether it has compiled operators."""
    version = installed_version("detectron2")
    if error := import_error("detectron2", "detectron2.engine", "detectron2.model_zoo"):
        if isinstance(error, ModuleNotFoundError) and error.name == "detectron2":
            value, problem = "missing", "is missing: "
        else:
            value = f"{version}, does not import"
            problem = f"does not import ({first_line(error)}): repair what the message names, or "
            problem += "uninstall it and "
        report.add("detectron2", value, f"detectron2 {problem}{INSTALL_DETECTRON2}")
        return
    module = import_module("detectron2")
    version = version or str(module.__version__)
    edition = "PyPI sources with edits" if version.startswith(PYPI_EDITION) else "official"
    report.add("detectron2", f"{version} ({edition})")
    report.add("detectron2 at", str(Path(str(module.__file__)).parent))
    operators = "detectron2._C"
    if find_spec(operators) is None:
        report.add(operators, "not compiled (no rotated boxes; nothing here needs it)")
    elif error := import_error(operators):
        problem = (
            f"{operators} does not load ({first_line(error)}): Detectron2 was compiled for another "
            "torch; uninstall it and compile it again"
        )
        report.add(operators, "compiled, does not load", problem)
    else:
        report.add(operators, "compiled")


def check_dataset_root(report: Report) -> None:
    """Add the folder in which Detectron2 looks for data sets."""
    root = os.environ.get("DETECTRON2_DATASETS")
    missing = "" if Path(root or "datasets").expanduser().is_dir() else ", does not exist"
    if root is None:
        report.add("data sets", f"./datasets{missing} (DETECTRON2_DATASETS is not set)")
        return
    problem = (
        f"DETECTRON2_DATASETS names {root}, which is not a folder: create it or set the variable "
        "to the folder that holds coco/ and other data sets"
    )
    report.add("data sets", f"{root}{missing} (DETECTRON2_DATASETS)", problem if missing else None)


def check_environment() -> Report:
    """Look at everything and return the report."""
    report = Report()
    checks = (check_python, check_packages, check_pairing)
    for check in (*checks, check_devices, check_detectron2, check_dataset_root):
        try:
            check(report)
        except Exception as error:  # a broken installation; the other checks still say something
            report.problems.append(f"{check.__name__} could not check ({first_line(error)})")
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
