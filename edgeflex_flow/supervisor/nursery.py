"""Processes of flows are forked from one that has imported everything: they start in a moment and share its memory.

An own interpreter for each flow would cost 1.5 s of processor time at each start and 100 MB of memory; a fork costs
some 15 MB. The process that is forked from has one thread and nothing open, so that a fork of it is whole.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple, TypeAlias

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""Threads do not survive a fork, and flows that share a machine gain nothing by more."""
KERNELS = "EDGEFLEX_KERNELS"
"""Names the modules whose kernels are compiled before anything is forked."""


class Launch(NamedTuple):
    """What a process of a flow needs to know."""

    flow: str
    file: Path
    site: Path
    folder: Path
    """Of the supervisor's own files."""
    texts: Mapping[str, str]
    """What its files said when it was checked, by name."""
    params: tuple[tuple[str, str], ...]
    log_level: str
    log_format: str


FlowMain: TypeAlias = Callable[[Launch, socket.socket, socket.socket], None]
"""Runs a flow, with the lines to the supervisor: for orders, and for sockets. A function of a module."""


class Nursery:
    """Makes processes. `preload`: modules that hold all that a flow may need; `kernels`: modules that use kernels."""

    def __init__(self, main: FlowMain, preload: Iterable[str], kernels: Iterable[str]) -> None:
        os.environ.update(ENVIRONMENT, **{KERNELS: " ".join(sorted(kernels))})
        self._main = main
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def process(self, launch: Launch, orders: socket.socket, sockets: socket.socket) -> ForkServerProcess:
        """A process that is still to be started; that takes as long as the imports, the first time."""
        return self._context.Process(target=self._main, args=(launch, orders, sockets), name=launch.flow, daemon=True)
