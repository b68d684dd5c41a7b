"""Parameters that a policy may change within limits which the flow file declares."""

from __future__ import annotations

import msgspec


class PolicyBinding(msgspec.Struct, frozen=True, kw_only=True):
    """A config field bound to a policy: `{policy: NAME, field: FIELD, default: …, min: …, max: …}`.

    Values are in the unit of the config field; `default` holds until a policy says otherwise.
    """

    policy: str
    field: str
    default: float
    min: float
    max: float

    @property
    def key(self) -> str:
        """How messages name it."""
        return f"{self.policy}.{self.field}"
