"""LVIS's average precision, by Detectron2's evaluator and the package ``lvis``."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from detectron2.evaluation import LVISEvaluator as Detectron2LvisEvaluator


class LvisEvaluator(Detectron2LvisEvaluator):  # type: ignore[misc]
    """Detectron2's, also with a numpy that ``lvis`` 0.5.3 does not know.

    Args:
        *args, **kwargs: as of Detectron2's.

    Raises:
        ModuleNotFoundError: if the package ``lvis`` is missing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        import lvis.eval

        super().__init__(*args, **kwargs)
        if not hasattr(np, "float"):
            # It writes np.float, which numpy 1.24 took away. Nobody else gets to see this one.
            older = ModuleType("numpy")
            vars(older).update(vars(np), float=float)
            lvis.eval.np = older
