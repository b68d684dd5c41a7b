"""Linear and mixed-integer programs by HiGHS, as scipy brings it. Only those need scipy who name such an operator."""

from __future__ import annotations

import importlib
from typing import Any

from edgeflex_flow.errors import FatalError, how_to_install


def load_optimize() -> Any:
    """`scipy.optimize`. FatalError where scipy is missing."""
    return _load("scipy.optimize")


def load_sparse() -> Any:
    """`scipy.sparse`. FatalError where scipy is missing."""
    return _load("scipy.sparse")


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FatalError(f"this operator needs scipy: {how_to_install('control')}") from error
