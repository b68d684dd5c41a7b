"""The one way to write a numba kernel: a typed signature, no GIL, cached on disk per project version."""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numba

from edgeflex_flow import __version__

F = TypeVar("F", bound=Callable[..., object])

_declared: list[tuple[str, Any, str]] = []
_warm: set[int] = set()
"""Ids of kernels that are compiled for their signature and for nothing else from then on."""


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _cache_folder() -> Path:
    """Where compiled kernels live: in the environment's own folder, so that they go when it goes."""
    tail = Path("edgeflex-flow") / __version__ / "kernels"
    own = Path(sys.prefix) / "var" / "cache" / tail
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / tail
    for folder in (own, user):
        if _writable(folder):
            return folder
    # A read-only system: compile anew at each start rather than fail. A folder of a known name could be another's.
    folder = Path(tempfile.mkdtemp(prefix="edgeflex-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(_cache_folder())  # type: ignore[attr-defined]


def kernel(signature: str) -> Callable[[F], F]:
    """Compile a function of arrays and scalars with numba for exactly one signature.

    The compiler runs at `warm_up`, or at the first call, never while importing. A kernel may call kernels of its own
    file only, because numba does not notice a change across files (numba#4807).

    >>> @kernel("float64(float64, float64)")
    ... def add(a: float, b: float) -> float:
    ...     return a + b
    >>> add(1.0, 2.0)
    3.0
    """

    def decorate(function: F) -> F:
        # Interactive code (a doctest, a REPL) has no file that a cache entry could be tied to.
        cached = os.path.exists(function.__code__.co_filename)
        compiled = numba.njit(cache=cached, nogil=True, error_model="numpy")(function)
        _declared.append((function.__module__, compiled, signature))
        return cast("F", compiled)

    return decorate


def modules_behind(module: str) -> set[str]:
    """The module and those of its own package that it imports from, and so on: where its kernels may stand."""
    package = module.rpartition(".")[0]
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name in found or name not in sys.modules:
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            other = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(other, str) and other.rpartition(".")[0] == package:
                pending.append(other)
    return found


def _never() -> bool:
    return False


def warm_up(modules: Iterable[str], unless: Callable[[], bool] = _never) -> None:
    """Compile (or load from the cache) every kernel that the named modules use. Stops early once `unless` is true.

    Run before a socket opens, so that no stream waits for the compiler. Afterwards these kernels refuse any other
    argument types instead of compiling for them in the middle of a stream.
    """
    wanted = {each for module in modules for each in modules_behind(module)}
    for module, compiled, signature in _declared:
        if unless():
            return
        if module in wanted and id(compiled) not in _warm:
            # Also where a call has compiled it already: for the types of that call alone.
            compiled.compile(signature)
            compiled.disable_compile()
            _warm.add(id(compiled))
    _release_compiler()


_MADV_DONTNEED = 4
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r.*llvmlite.*\n(?:\w+:.*\n)*?Anonymous: +0 kB$", re.MULTILINE)
"""A readable mapping of the compiler's library none of whose pages were changed (those would be lost)."""


def _release_compiler() -> None:
    """Give back the pages of the compiler's library, some 70 MB that nothing reads again once all is compiled.

    They are unchanged pages of a file: should one be needed after all, the system reads it again. Linux only.
    """
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        return
    advise = ctypes.CDLL(None).madvise
    for begin, end in _MAPPING.findall(smaps.read_text()):
        start = int(begin, 16)
        advise(ctypes.c_void_p(start), ctypes.c_size_t(int(end, 16) - start), _MADV_DONTNEED)
