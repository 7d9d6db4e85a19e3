"""Methods built on the library: `sap_detr.projects.NAME` is the folder `projects/NAME/NAME`.

setup.py makes the connection, so that a new project needs `pip install -e .` once more.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from types import ModuleType

GROUP = "sap_detr.projects"


def load_projects() -> dict[str, ModuleType]:
    """Import all installed projects, so that what they register is known.

    A config imports what it uses. This is for tools that are given no config, such as the converter
    of checkpoints. Other distributions can add projects: entry points of the group
    "sap_detr.projects" that name a module.

    Returns:
        Name of the project to its module.
    """
    return {entry.name: entry.load() for entry in sorted(entry_points(group=GROUP))}
