"""What people who look at a flow want of it: to see wires, and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgeflex_flow.runtime.letters import shown_payload
from edgeflex_flow.runtime.run import FlowRun, Replay
from edgeflex_flow.runtime.showing import Showing
from edgeflex_flow.supervisor.channel import Answer, Ask, Show, Watch


class Looks:
    """Shows one run after another. `tell` may wait; the thread that passes messages never calls it."""

    def __init__(self, tell: Callable[[Show | Answer], None]) -> None:
        self._tell = tell
        self._run: FlowRun | None = None
        self._showing: Showing | None = None
        self._watched: tuple[str, ...] = ()
        """Nodes of which somebody wants to see what they give, also in the next run."""

    @contextmanager
    def at(self, run: FlowRun) -> Iterator[Showing]:
        """Show this run while the block lasts."""
        with Showing(run, lambda shown: self._tell(Show(shown))) as showing:
            self._run, self._showing = run, showing
            showing.watch(self._watched)
            try:
                yield showing
            finally:
                self._run = self._showing = None

    def obey(self, order: Watch | Ask) -> None:
        """Any one thread."""
        run, showing = self._run, self._showing
        if isinstance(order, Watch):
            self._watched = order.nodes
            if showing is not None:
                showing.watch(order.nodes)
            return
        found = None if showing is None else showing.letters.find(order.letter)
        if run is None or showing is None or found is None:
            self._tell(Answer(order.request, is_done=False, text="this dead letter is not kept any more"))
        elif order.do == "payload":
            self._tell(Answer(order.request, is_done=True, text="", payload=shown_payload(found)))
        elif found.head.why_not:
            self._tell(Answer(order.request, is_done=False, text=found.head.why_not))
        else:

            def done(is_done: bool, text: str) -> None:
                showing.later(lambda: self._tell(Answer(order.request, is_done, text)))

            run.replay(Replay(found, order.who, done))
