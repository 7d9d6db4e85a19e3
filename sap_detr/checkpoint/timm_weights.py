"""Weights of timm by their names, ``timm://NAME``, from timm's cache or its site."""

from __future__ import annotations

from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from ..text import listing

_PREFIX = "timm://"


class TimmWeights(PathHandler):  # type: ignore[misc]
    """Finds the files of names such as ``timm://convnext_tiny.fb_in1k``."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Return the file.

        Raises:
            FileNotFoundError: timm has no weights of this name, or they are neither in its cache
                nor can they be fetched.
        """
        name = path.removeprefix(_PREFIX)
        try:
            import huggingface_hub
            import timm
        except ImportError as error:
            raise FileNotFoundError(
                f"{path} needs a package: pip install 'sap-detr[timm]'"
            ) from error
        if name not in timm.list_pretrained():
            tagged = timm.list_pretrained(f"{name.partition('.')[0]}*")
            hint = f"; it has {listing(tagged, 5)}" if tagged else ""
            raise FileNotFoundError(f"timm has no weights called {name!r}{hint}")
        known: Any = timm.get_pretrained_cfg(name)
        try:
            found: str = huggingface_hub.hf_hub_download(known.hf_hub_id, "model.safetensors")
        except Exception as error:  # of many kinds: no network, no entry, no right to it
            raise FileNotFoundError(
                f"{path} is not in timm's cache and could not be fetched "
                f"({type(error).__name__}): fetch {known.hf_hub_id} elsewhere, and give its "
                "model.safetensors as train.init_checkpoint"
            ) from error
        return found


PathManager.register_handler(TimmWeights(), allow_override=True)
