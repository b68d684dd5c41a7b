"""The inline runtime: the same flow in one thread of plain Python, with a real or a virtual clock."""

from __future__ import annotations

from collections.abc import Mapping

from edgeflex_flow.node import Sink
from edgeflex_flow.runtime.feed import Feed
from edgeflex_flow.runtime.lifecycle import execute
from edgeflex_flow.runtime.receipts import Receipts
from edgeflex_flow.runtime.run import FlowRun
from edgeflex_flow.runtime.stage import WHOLE, Stage, whole

POLL_WAIT_S = 0.02


def run_inline(run: FlowRun) -> None:
    """Run a flow to its end in this thread. Raises FatalError as `execute` does."""

    def pass_messages(feed: Feed, sinks: Mapping[str, Sink], receipts: Receipts) -> None:
        stage = Stage(run, whole(run.plan), sinks)
        while not feed.ended:
            for node_id, message in feed.poll(POLL_WAIT_S):
                stage.begin(node_id, message)
            receipts.after_turn()

    execute(run, pass_messages, layout=WHOLE)
