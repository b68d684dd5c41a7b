"""What a power flow and a voltage control say to each other: payloads exactly as those of CoVEE, per unit.

Sources: edgeFLEX D4.3, section 6.3; the CoVEE software of RWTH Aachen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from edgeflex_flow.errors import BadMessageError
from edgeflex_services.powerflow_plant import ACTIVE_POWER, REACTIVE_POWER, STORAGE_POWER

VOLTAGE_TOPIC: Final = "/voltage_control/measuremnts/voltage"
PV_TOPIC: Final = "/voltage_control/measuremnts/pv"
SOC_TOPIC: Final = "/voltage_control/measuremnts/soc"
"""The project's own: CoVEE's controllers count the energy of storages themselves."""

KEYS: Final = {
    VOLTAGE_TOPIC: "voltage_measurements",
    PV_TOPIC: "pv_input_measurements",
    SOC_TOPIC: "soc_measurements",
}
QUANTITIES: Final = {
    "/voltage_control/control/active_power": ACTIVE_POWER,
    "/voltage_control/control/reactive_power": REACTIVE_POWER,
    "/voltage_control/control/active_power_ESS": STORAGE_POWER,
}
"""The quantity that comes on a topic, which is also the key in its payload."""

_decoder: Final = msgspec.json.Decoder(dict[str, Any])


def encode_measurements(topic: str, values: Mapping[str, float], time_ns: int | None = None) -> bytes:
    """The payload of a topic, with the time if one is given.

    >>> encode_measurements(VOLTAGE_TOPIC, {"node_7": 1.031})
    b'{"voltage_measurements":{"node_7":1.031}}'
    """
    message: dict[str, object] = {KEYS[topic]: values}
    return msgspec.json.encode(message if time_ns is None else message | {"time_ns": time_ns})


def decode_setpoints(quantity: str, payload: bytes) -> dict[str, float]:
    """The set-points by node in a payload. Other keys beside that of the quantity are not read.

    Raises BadMessageError when it is none.

    >>> decode_setpoints("reactive_power", b'{"reactive_power":{"node_7":-0.3}}')
    {'node_7': -0.3}
    """
    try:
        return msgspec.convert(_decoder.decode(payload)[quantity], dict[str, float])
    except KeyError as error:
        raise BadMessageError(f"the payload has no key '{quantity}'", payload=payload[:100]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessageError(f"the payload of {quantity}: {error}", payload=payload[:100]) from error
