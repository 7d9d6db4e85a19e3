"""The configs that come with the package: their names and files. Nothing is imported for it."""

from __future__ import annotations

import difflib
from pathlib import Path

from .errors import UserError


class ConfigError(UserError, ValueError):
    """A config, or a change to one, makes no sense. The message says which key and why."""


def _config_root() -> Path:
    """Return the folder of the configs: in an installed package, or at the top of a source tree."""
    installed = Path(__file__).parent / "model_zoo" / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def list_configs() -> list[str]:
    """Return the names of all recipes, such as ``detr/detr_r50_500ep.py``."""
    root = _config_root()
    names = [file.relative_to(root).as_posix() for file in sorted(root.glob("**/*.py"))]
    projects = sorted(root.parent.glob("projects/*/configs/*.py"))
    names += [f"{file.parents[1].name}/{file.name}" for file in projects]
    # "common" folders hold parts.
    return [name for name in names if "common" not in name.split("/")]


def get_config_file(name: str) -> str:
    """Return the path of a config.

    Args:
        name: such as ``detr/detr_r50_500ep.py``; the ending and a leading ``configs/`` may be left
            out.

    Raises:
        FileNotFoundError: if there is none of this name; the message lists what there is.
    """
    root = _config_root()
    wanted = name.removeprefix("configs/").removesuffix(".py") + ".py"
    project, _, file = wanted.partition("/")
    for path in (root / wanted, root.parent / "projects" / project / "configs" / file):
        if path.is_file():
            return str(path)
    known = list_configs()
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    raise FileNotFoundError(
        f"{name!r} is neither a file nor a config of this package. "
        + (f"Close names: {', '.join(close)}. " if close else "")
        + f"All names: {', '.join(known)}"
    )
