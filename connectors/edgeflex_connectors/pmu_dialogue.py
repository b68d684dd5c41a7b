"""What a client says to a device that obeys commands, and when: off, configuration, on, and again.

Knows nothing of sockets: it is told what came and what time it is, and gives the commands to send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgeflex_connectors.c37118 import Command, CommandFrame, ConfigFrame, FrameHeader, FrameType, encode_command
from edgeflex_flow.errors import RetryableError

NS: Final = 1_000_000_000
ROUNDS: Final = 2
"""How often each kind of configuration is asked for before a device counts as silent: a datagram may be lost."""
TRIES: Final = 3
"""How often a running stream is asked for its configuration, or turned on again, before the connection is given up."""
NEVER: Final = 2**62
_TIME_BASE: Final = 1_000_000
ANSWERS: Final = {
    FrameType.CFG1: Command.SEND_CFG1,
    FrameType.CFG2: Command.SEND_CFG2,
    FrameType.CFG3: Command.SEND_CFG3,
}


def command_frame(command: Command, idcode: int, now_ns: int) -> bytes:
    """A command for the stream of a device, sent now."""
    seconds, rest_ns = divmod(now_ns, NS)
    header = FrameHeader(idcode=idcode, soc=seconds & 0xFFFFFFFF, fraction=rest_ns * _TIME_BASE // NS)
    return encode_command(CommandFrame(header=header, command=command))


class Dialogue:
    """One stream of one device. `begin` with each connection; `act` whenever `due_ns` has come."""

    def __init__(self, asks: Sequence[Command], answer_s: float, silence_s: float, recheck_s: float) -> None:
        self._asks = list(asks)
        """The kind that was answered last goes first, so that a reconnection does not wait for the others again."""
        self._answer_ns = round(answer_s * NS)
        self._silence_ns = round(silence_s * NS)
        self._recheck_ns = round(recheck_s * NS)
        self._header_wanted = True
        self._end()

    def _end(self) -> None:
        self.running = False
        """Whether data are turned on."""
        self._asked = 0
        self._ask_due_ns = NEVER
        self._must_answer = False
        self._silent_due_ns = NEVER
        self._turned_on = 0
        self._most_silent_ns = self._silence_ns

    @property
    def due_ns(self) -> int:
        return min(self._ask_due_ns, self._silent_due_ns)

    def begin(self, now_ns: int) -> list[Command]:
        """A connection is there."""
        self._end()
        self._asked = 1
        self._ask_due_ns = now_ns + self._answer_ns
        return [Command.DATA_OFF, self._asks[0]]

    def configured(self, config: ConfigFrame, now_ns: int) -> list[Command]:
        """A configuration came."""
        command = ANSWERS[config.kind]
        if command in self._asks:
            self._asks.remove(command)
            self._asks.insert(0, command)
        self._asked, self._must_answer = 0, False
        self._ask_due_ns = now_ns + self._recheck_ns
        if config.data_rate < 0:
            self._most_silent_ns = max(self._silence_ns, 3 * -config.data_rate * NS)
        if self.running:
            return []
        self.running = True
        self._silent_due_ns = now_ns + self._most_silent_ns
        self._turned_on = 1
        said = [Command.SEND_HEADER] if self._header_wanted else []
        self._header_wanted = False
        return [*said, Command.DATA_ON]

    def heard_data(self, now_ns: int) -> None:
        if self.running:
            self._silent_due_ns = now_ns + self._most_silent_ns
            self._turned_on = 0

    def announced(self, now_ns: int) -> None:
        """The configuration will change: ask for it soon, and go on if there is no answer."""
        if self.running and not self._asked:
            self._ask_due_ns = now_ns

    def stale(self, now_ns: int) -> None:
        """The configuration has changed: data are not decoded until it comes."""
        if self.running and not self._must_answer:
            self._must_answer = True
            self._asked = 0
            self._ask_due_ns = now_ns

    def act(self, now_ns: int) -> list[Command]:
        """The commands that are due. Raises RetryableError when the device has said nothing for too long."""
        said: list[Command] = []
        if now_ns >= self._ask_due_ns:
            said += self._ask(now_ns)
        if now_ns >= self._silent_due_ns:
            said += self._turn_on(now_ns)
        return said

    def _ask(self, now_ns: int) -> list[Command]:
        most = TRIES if self.running else ROUNDS * len(self._asks)
        if self._asked >= most or (self.running and not self._must_answer and self._asked):
            if self.running and not self._must_answer:
                self._asked = 0
                self._ask_due_ns = now_ns + self._recheck_ns
                return []
            names = " nor to ".join(dict.fromkeys(command.name for command in self._asks))
            raise RetryableError(f"no answer to {names} within {self._answer_ns / NS:g} s each")
        command = self._asks[self._asked % len(self._asks)]
        self._asked += 1
        self._ask_due_ns = now_ns + self._answer_ns
        return [command]

    def _turn_on(self, now_ns: int) -> list[Command]:
        if self._turned_on >= TRIES:
            raise RetryableError(f"no data for {TRIES * self._most_silent_ns / NS:g} s, though turned on {TRIES} times")
        self._turned_on += 1
        self._silent_due_ns = now_ns + self._most_silent_ns
        return [Command.DATA_ON]
