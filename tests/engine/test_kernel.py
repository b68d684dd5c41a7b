"""The kernel decorator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeflex_flow.kernel import kernel, warm_up


@kernel("float64(float64[::1])")
def total(values: NDArray[np.float64]) -> float:
    result = 0.0
    for value in values:
        result += value
    return result


def test_a_kernel_computes() -> None:
    assert total(np.arange(4.0)) == 6.0


def test_after_warm_up_a_kernel_refuses_to_compile_for_other_types() -> None:
    warm_up([total.__module__])
    with pytest.raises(TypeError, match="No matching definition"):
        total(np.arange(4, dtype=np.int32))  # pyright: ignore[reportArgumentType]


def test_warm_up_stops_once_it_is_not_wanted_any_more() -> None:
    asked: list[bool] = []

    def unwanted() -> bool:
        asked.append(True)
        return True

    warm_up([total.__module__], unwanted)
    assert asked == [True]


@kernel("float64(Array(float64, 1, 'A', readonly=True))")
def first(values: NDArray[np.float64]) -> float:
    return float(values[0])


def test_warm_up_compiles_the_declared_signature_though_a_call_came_first() -> None:
    assert first(np.arange(4.0)) == 0.0
    warm_up([first.__module__])
    assert first(np.arange(8.0).reshape(4, 2)[:, 1]) == 1.0


def test_compiled_kernels_are_cached_on_disk(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from edgeflex_flow.kernel import kernel, warm_up\n"
        "@kernel('int64(int64)')\n"
        "def twice(x):\n    return 2 * x\n"
        "warm_up(['own'])\n"
        "print(sum(twice.stats.cache_hits.values()), twice(4))\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", "import own"],
            cwd=tmp_path,
            env={"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PATH": "", "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert outputs == [["0", "8"], ["1", "8"]]
