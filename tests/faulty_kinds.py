"""An installed package whose operator goes wrong on demand, for tests of what watches over flows."""

from __future__ import annotations

import os
from pathlib import Path

MODULE = '''\
"""An operator that goes wrong."""

import os
import signal
import time
from typing import Annotated, Literal

from msgspec import Meta

from edgeflex_flow.errors import BadMessageError
from edgeflex_flow.messages import Samples
from edgeflex_flow.node import Input, NodeConfig, OperatorNode, SinkNode


class FaultyConfig(NodeConfig, frozen=True, kw_only=True):
    """Passes samples on until it goes wrong."""

    fault: Annotated[Literal["crash", "exit", "hang", "leak", "refuse"], Meta(description="What goes wrong.")]
    after: Annotated[int, Meta(ge=0, description="Rows that go well before.")] = 0


class State:
    def __init__(self):
        self.seen = 0
        self.hoard = []


def step(config, state, message):
    state.seen += message.rows
    if state.seen > config.after:
        if config.fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif config.fault == "exit":
            os._exit(7)
        elif config.fault == "hang":
            time.sleep(3600)
        elif config.fault == "leak":
            state.hoard.append(bytearray(8 * 2**20))
        elif config.fault == "refuse" and os.path.exists("refuse"):
            raise BadMessageError("there is a file 'refuse'", reason="refused")
    return [message]


NODE = OperatorNode(
    kind="faulty",
    config=FaultyConfig,
    inputs={"in": Input(accepts=(Samples,), step=step)},
    output=lambda config, inputs: inputs["in"],
    start=lambda config: State(),
)


class StuckConfig(NodeConfig, frozen=True, kw_only=True):
    """Never opens."""


class Stuck:
    def __init__(self, config, context):
        pass

    def open(self):
        time.sleep(3600)

    def write(self, source, message):
        pass

    def flush(self, seconds):
        return True

    def close(self):
        pass


STUCK = SinkNode(kind="stuck", config=StuckConfig, inputs={"in": Input(accepts=(Samples,))}, open=Stuck)
'''
DISTRIBUTION = "faulty_kinds-1.0.dist-info"
METADATA = "Metadata-Version: 2.1\nName: faulty-kinds\nVersion: 1.0\n"


def install(folder: Path) -> dict[str, str]:
    """Install it in a folder; the environment that finds it there."""
    folder.mkdir()
    (folder / "faulty_kinds.py").write_text(MODULE)
    (folder / DISTRIBUTION).mkdir()
    (folder / DISTRIBUTION / "METADATA").write_text(METADATA)
    (folder / DISTRIBUTION / "entry_points.txt").write_text(
        "[edgeflex_flow.nodes]\nfaulty = faulty_kinds:NODE\nstuck = faulty_kinds:STUCK\n"
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}
