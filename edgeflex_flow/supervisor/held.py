"""Which flows people have stopped: they stay so when the supervisor is started anew, also after a power failure."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from edgeflex_flow.disk import replace_durably
from edgeflex_flow.supervisor.aside import aside

AGAIN_S = 60.0
END_S = 2.0

log = logging.getLogger("edgeflex.supervisor")


class HeldFlows:
    """Who stopped which flow, kept in a file. For one event loop."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._by_flow = _read(file)
        self._kept = self._by_flow
        self._keeping: asyncio.Task[None] | None = None

    def by(self, flow: str) -> str:
        """Who stopped a flow; empty if nobody did."""
        return self._by_flow.get(flow, "")

    def hold(self, flow: str, who: str) -> None:
        self._change({**self._by_flow, flow: who})

    def release(self, flow: str) -> None:
        self._change({name: who for name, who in self._by_flow.items() if name != flow})

    def _change(self, by_flow: dict[str, str]) -> None:
        self._by_flow = by_flow
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Until the file says what is: a disk may be full for a while, and takes its time, for which nothing waits."""
        said = False
        while self._kept != self._by_flow:
            now = self._by_flow
            try:
                await aside(lambda now=now: _write(self.file, now))  # type: ignore[misc]
            except OSError as error:
                if not said:
                    text = "which flows people have stopped is not kept for the next start: %s; tried again each %.0f s"
                    log.error(text, error, AGAIN_S)  # noqa: TRY400
                said = True
                await asyncio.sleep(AGAIN_S)
            else:
                self._kept = now

    async def end(self) -> None:
        """Give what is being written a moment."""
        if self._keeping is not None:
            await asyncio.wait([self._keeping], timeout=END_S)
            self._keeping.cancel()


def _write(file: Path, by_flow: dict[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_durably(file, msgspec.json.encode(by_flow))


def _read(file: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        log.error("'%s' cannot be read, so that flows run which people had stopped: %s", file, error)  # noqa: TRY400
        return {}
