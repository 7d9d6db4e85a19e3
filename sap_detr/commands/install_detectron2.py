"""Install Detectron2 where its official repository cannot be reached or compiled.

Detectron2 is not published on PyPI under its own name. If the running interpreter already imports
one (the official build, say), it is kept. Otherwise the Python sources of
release 0.5 are taken from the PyPI source distribution `detectron2-cdo`, their hash is checked, the
edits of `EDITS` make them run without compiled code on current versions of their dependencies, and
the result is installed as the distribution `detectron2`.

Needs torch and setuptools in the running interpreter, and nothing else: no compiler, no CUDA.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from ..check_env import PYPI_EDITION, installed_version
from ..errors import UserError

SDIST = "detectron2-cdo==0.5"
SDIST_SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"

# The pip that downloads. Releases from 26.2 on refuse a distribution that names a dependency by
# its address, even in an extra that nobody asks for, as this one does. No dependency that the
# archive declares is ever installed: its hash is fixed and its build files are replaced.
DOWNLOAD_PIP = "pip==25.3"
DOWNLOAD_PIP_SHA256 = "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd"

# Replaces setup.py, which imports torch and lists sources of an extension that the archive lacks.
PYPROJECT = """\
[build-system]
requires = ["setuptools>=70.1"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "{version}"
description = "Detectron2 0.5, Python sources only, edited to run without compiled code"
requires-python = ">=3.8"
dependencies = [
    "torch>=2.0",
    "torchvision",
    "numpy",
    "Pillow>=7.1",
    "matplotlib",
    "opencv-python-headless",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "packaging",
]

[tool.setuptools.packages.find]
include = ["detectron2*"]
exclude = ["detectron2.model_zoo.configs*"]

[tool.setuptools.package-data]
"detectron2.model_zoo" = ["configs/**/*.yaml", "configs/**/*.py"]
"""

# What must import before the installation counts as done.
CHECK = """\
import detectron2.config, detectron2.data, detectron2.engine, detectron2.evaluation
import detectron2.model_zoo, detectron2.modeling, detectron2.utils.analysis
import detectron2.utils.visualizer
detectron2.model_zoo.get_config_file("common/train.py")
"""

WHICH = """\
import os, detectron2, detectron2.engine, detectron2.model_zoo
print(detectron2.__version__, os.path.dirname(detectron2.__file__))
"""


class InstallError(UserError, RuntimeError):
    """Installation stopped; the message says why and what to do."""


@dataclass(frozen=True)
class Edit:
    """Replace `old`, found exactly `count` times in `file` (relative to the package), by `new`."""

    file: str
    old: str
    new: str
    why: str
    count: int = 1


_GUARDED_C = "try:\n    from detectron2 import _C\nexcept ImportError:\n    _C = None\n"
_WHY_C = "the archive has no C++ sources; operators that need them fail only when called"

EDITS: tuple[Edit, ...] = (
    *(
        Edit(f"layers/{name}.py", "from detectron2 import _C\n", _GUARDED_C, _WHY_C)
        for name in ("deform_conv", "roi_align_rotated", "rotated_boxes")
    ),
    Edit(
        "evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "try:\n"
        "    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n"
        "    COCOeval_opt = COCOeval\n",
        "the fast evaluation is compiled code; pycocotools gives the same numbers",
    ),
    Edit(
        "export/__init__.py",
        "from .api import *\n",
        "try:\n"
        "    from caffe2.proto import caffe2_pb2 as _caffe2_pb2\n"
        "except ImportError:\n"
        "    pass\n"
        "else:\n"
        "    from .api import *\n",
        "torch 2 has no caffe2, and FLOP counting imports this package for TracingAdapter",
    ),
    Edit(
        "data/transforms/transform.py",
        "interp=Image.LINEAR",
        "interp=Image.BILINEAR",
        "Pillow 10 removed the alias",
    ),
    Edit(
        "model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "",
        "new setuptools releases have no pkg_resources",
    ),
    Edit(
        "model_zoo/model_zoo.py",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
        "    )",
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        "new setuptools releases have no pkg_resources",
    ),
    *(
        Edit(
            file,
            old,
            old.replace("np.", ""),
            "numpy 1.24 removed its aliases of the builtin types",
            count,
        )
        for file, old, count in (
            ("data/build.py", "dtype=np.int", 2),
            ("evaluation/sem_seg_evaluation.py", "dtype=np.int)", 2),
            ("evaluation/sem_seg_evaluation.py", "dtype=np.float)", 2),
            ("evaluation/sem_seg_evaluation.py", "astype(np.float)", 3),
            ("data/datasets/pascal_voc.py", "dtype=np.str)", 1),
            ("evaluation/pascal_voc_evaluation.py", "astype(np.bool)", 2),
            ("structures/masks.py", "astype(np.bool)", 1),
            ("structures/masks.py", "dtype=np.bool)", 1),
            ("utils/visualizer.py", "astype(np.bool)", 3),
            ("utils/video_visualizer.py", "dtype=np.bool)", 1),
        )
    ),
    Edit(
        "engine/hooks.py",
        "torch.optim.lr_scheduler._LRScheduler",
        "torch.optim.lr_scheduler.LRScheduler",
        "torch 2 schedulers no longer derive from the private class, so that their state was "
        "silently left out of checkpoints",
        count=2,
    ),
    Edit(
        "engine/launch.py",
        '    assert torch.cuda.is_available(), "cuda is not available. '
        'Please check your installation."\n',
        "    has_gpu = torch.cuda.is_available()\n",
        "several processes can train on a CPU",
    ),
    Edit(
        "engine/launch.py",
        'backend="NCCL"',
        'backend="NCCL" if has_gpu else "GLOO"',
        "NCCL needs GPUs",
    ),
    Edit(
        "engine/launch.py",
        "    # synchronize is needed here to prevent a possible timeout after calling "
        "init_process_group\n"
        "    # See: https://github.com/facebookresearch/maskrcnn-benchmark/issues/172\n"
        "    comm.synchronize()\n"
        "\n"
        "    assert num_gpus_per_machine <= torch.cuda.device_count()\n"
        "    torch.cuda.set_device(local_rank)\n",
        "    if has_gpu:\n"
        "        assert num_gpus_per_machine <= torch.cuda.device_count()\n"
        "        torch.cuda.set_device(local_rank)\n"
        "\n"
        "    # synchronize is needed here to prevent a possible timeout after calling "
        "init_process_group\n"
        "    # See: https://github.com/facebookresearch/maskrcnn-benchmark/issues/172\n"
        "    comm.synchronize()\n",
        "a barrier before the device is set puts every process on the first GPU",
    ),
    Edit(
        "engine/launch.py",
        "            comm._LOCAL_PROCESS_GROUP = pg\n\n    main_func(*args)\n",
        "            comm._LOCAL_PROCESS_GROUP = pg\n\n    main_func(*args)\n"
        "    dist.destroy_process_group()\n",
        "a process that exits with its gloo group alive aborts now and then",
    ),
    Edit(
        "engine/defaults.py",
        '    if "device_ids" not in kwargs:\n',
        '    if "device_ids" not in kwargs and all(p.is_cuda for p in model.parameters()):\n',
        "DistributedDataParallel refuses device_ids for a model on the CPU",
    ),
)


def edited_version(edits: Sequence[Edit] = EDITS) -> str:
    """Version of the distribution that these edits make; other edits give another version."""
    content = repr([astuple(edit) for edit in edits]) + PYPROJECT + SDIST_SHA256
    # A letter first, because an all-digit part of a local version loses its leading zeros.
    return f"{PYPI_EDITION}.e{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def check_sha256(path: Path, expected: str) -> None:
    """Raise InstallError unless the file's SHA-256 is `expected` (hexadecimal)."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise InstallError(
            f"{path.name}: SHA-256 is {actual}, expected {expected}. The file is damaged or is not "
            f"the sdist of {SDIST}; fetch it again."
        )


def apply_edits(package: Path, edits: Sequence[Edit] = EDITS) -> None:
    """Apply edits below the folder `package`.

    Raises InstallError if a file does not hold the old text as often as stated.
    """
    for edit in edits:
        file = package / edit.file
        text = file.read_text(encoding="utf-8")
        found = text.count(edit.old)
        if found != edit.count:
            raise InstallError(
                f"cannot edit {edit.file}: expected to find {edit.old!r} {edit.count} time(s), "
                f"found it {found} time(s)"
            )
        file.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def _run_python(arguments: Sequence[str], cwd: Path, what: str) -> None:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        raise InstallError(f"{what} failed:\n{result.stdout.strip()}")


def _pip(pip: Sequence[str], command: str, requirement: str, sha256: str, folder: Path) -> None:
    """Run a command of a pip, from a folder, on one requirement whose file has this SHA-256."""
    file = folder / f"{requirement.partition('==')[0]}.txt"
    file.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    options = ["--quiet", "--no-deps", "--require-hashes", "-r", str(file)]
    arguments = [*pip, *command.split(), *options]
    _run_python(arguments, folder, f"pip {command} of {requirement}")


def download_sdist(folder: Path) -> Path:
    """Download the sdist into `folder` with pip, hash-checked, and return its path."""
    _pip(["-m", "pip"], "install --target pip", DOWNLOAD_PIP, DOWNLOAD_PIP_SHA256, folder)
    download = "download --no-build-isolation --no-binary :all: --dest sdist"
    _pip([str(folder / "pip" / "pip")], download, SDIST, SDIST_SHA256, folder)
    (archive,) = (folder / "sdist").glob("*.tar.gz")
    return archive


def install(sdist: Path | None) -> str:
    """Build and install the edited Detectron2 (from `sdist` if given) and return its version."""
    for module in ("torch", "setuptools"):
        if importlib.util.find_spec(module) is None:
            raise InstallError(
                f"{module} is not installed in {sys.executable}; install it first "
                f"(python -m pip install -c constraints.txt {module})"
            )
    version = edited_version()
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        archive = sdist if sdist is not None else download_sdist(folder)
        check_sha256(archive, SDIST_SHA256)
        shutil.unpack_archive(archive, folder / "source")
        (source,) = (folder / "source").iterdir()
        apply_edits(source / "detectron2")
        for leftover in ("setup.py", "setup.cfg", "PKG-INFO"):
            (source / leftover).unlink(missing_ok=True)
        pyproject = PYPROJECT.format(version=version)
        (source / "pyproject.toml").write_text(pyproject, encoding="utf-8")
        _run_python(
            [
                *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"),
                *("--force-reinstall", str(source)),
            ],
            folder,
            "installing the edited Detectron2",
        )
        _run_python(["-c", CHECK], folder, "importing the installed Detectron2")
    return version


def existing_installation() -> str | None:
    """Describe the Detectron2 to keep, or return None if one must be installed.

    Raises InstallError if a Detectron2 that was not made here is installed but broken.
    """
    installed = installed_version("detectron2")
    made_here = installed is not None and installed.startswith(PYPI_EDITION)
    if made_here and installed != edited_version():
        return None
    # In another process and folder: a half-broken import must not end this process, and a folder
    # named detectron2 in the current directory is not an installation.
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [sys.executable, "-c", WHICH], cwd=folder, capture_output=True, text=True
        )
    if result.returncode == 0:
        version, path = result.stdout.strip().splitlines()[-1].split(" ", 1)
        return f"{installed or version} at {path}"
    if installed is None or made_here:
        return None
    reason = result.stderr.strip().splitlines()[-1]
    raise InstallError(
        f"detectron2 {installed} is installed but does not import ({reason}). Repair or uninstall "
        "it, or add --force to replace it."
    )


def run(args: argparse.Namespace) -> int:
    """Install Detectron2, or keep the one that is there.

    Raises:
        InstallError: if that is not possible.
    """
    if args.sdist is not None and not args.sdist.is_file():
        raise InstallError(f"--sdist {args.sdist}: there is no such file")
    existing = None if args.force else existing_installation()
    if existing is not None:
        print(f"Keeping Detectron2 {existing}")
    else:
        print(f"Installed Detectron2 {install(args.sdist)}")
    return 0
