"""Several flows at once: one process each, so that a crash of one never touches another."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from edgeflex_flow.flowfile import Plan
from edgeflex_flow.signals import blocked, heed
from edgeflex_flow.tied import tied


class Family:
    """The processes of the flows. Signals are passed on to them; one that ends badly is told at once."""

    def __init__(self, arguments_of: Callable[[Plan], list[str]], on_killed: Callable[[Plan, int, str], None]) -> None:
        """`on_killed` is told the exit code and the reason of a flow that could not tell them itself."""
        self._arguments_of = arguments_of
        self._on_killed = on_killed
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._codes: dict[str, int] = {}
        self._stopped: list[int] = []

    def run(self, plans: Sequence[Plan]) -> int:
        """Run them all to their ends and give back the worst exit code."""
        with heed(self._stop):
            watchers = [
                threading.Thread(target=self._watch, args=(plan, self._children[plan.name]), name=f"watch {plan.name}")
                for plan in plans
                if self._start(plan)
            ]
            for watcher in watchers:
                watcher.start()
            for watcher in watchers:
                watcher.join()
        return max(self._codes.values(), default=0)

    def _start(self, plan: Plan) -> bool:
        """Start its process, unless a signal came before."""
        if self._stopped:
            return False
        command = [sys.executable, "-m", "edgeflex_flow", *self._arguments_of(plan)]
        # A session of its own: a signal of the terminal comes once, through this process.
        with blocked():
            child = subprocess.Popen(tied(*command), start_new_session=True)
        self._children[plan.name] = child
        if self._stopped:
            child.send_signal(self._stopped[-1])
        return True

    def _stop(self, number: int) -> None:
        self._stopped.append(number)
        for child in list(self._children.values()):
            child.send_signal(number)

    def _watch(self, plan: Plan, child: subprocess.Popen[bytes]) -> None:
        code = child.wait()
        self._codes[plan.name] = code if code >= 0 else 128 - code
        if code == 0:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        rest = "" if self._stopped or len(self._codes) == len(self._children) else "; the others go on"
        text = f"the process of the flow '{plan.name}' ({plan.file}) {how}"
        logging.getLogger(f"edgeflex.{plan.name}").error(
            "%s%s", text, rest, extra={"exit_code": self._codes[plan.name]}
        )
        if code < 0:
            self._on_killed(plan, self._codes[plan.name], text)
