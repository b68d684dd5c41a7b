"""How several workers share out the devices of a flow, and how many messages are on their way between them."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeflex_flow.messages import Samples
from edgeflex_flow.node import WireMessage
from edgeflex_flow.runtime.stage import DEVICE, SITE

MOST_SPLITS_KEPT = 64


class _Split(NamedTuple):
    """How rows with these devices are shared out."""

    shard_of: NDArray[np.int64]
    """Shard by code of a device, shape (devices,)."""
    code_of: NDArray[np.int32]
    """Code by code of a device, among the devices of its shard, shape (devices,)."""
    devices: dict[int, tuple[str, ...]]
    """Devices by shard."""


class Sharding:
    """Shares rows out by a hash of the device's name. Each shard has a key by which bytewax finds its worker."""

    def __init__(self, keys: Sequence[str], site_key: str) -> None:
        """`keys`: of each shard; `site_key`: of what exists once."""
        self._keys = list(keys)
        self._site_key = site_key
        self._names = {site_key: SITE, **{key: str(shard) for shard, key in enumerate(keys)}}
        self._splits: dict[tuple[str, ...], _Split] = {}

    @property
    def layout(self) -> str:
        """How a state is shared out."""
        return f"{len(self._keys)} shards"

    def name_of(self, key: str) -> str:
        """Of the shard with this key, whatever the keys are: what its state is called."""
        return self._names[key]

    def keys_of(self, scope: str) -> list[str]:
        return self._keys if scope == DEVICE else [self._site_key]

    def split(self, scope: str, messages: Sequence[WireMessage]) -> list[tuple[str, Sequence[WireMessage]]]:
        """The messages by key."""
        if scope == SITE:
            return [(self._site_key, messages)]
        shares: dict[str, list[WireMessage]] = {}
        for message in messages:
            for key, share in self._split_one(message):
                shares.setdefault(key, []).append(share)
        return list(shares.items())

    def _split_one(self, message: WireMessage) -> list[tuple[str, WireMessage]]:
        if isinstance(message, Samples):
            return self._split_samples(message)
        device = str(getattr(message, "device", None) or "")
        return [(self._keys[shard_of(device, len(self._keys))], message)]

    def _split_samples(self, samples: Samples) -> list[tuple[str, WireMessage]]:
        split = self._splits.get(samples.devices)
        if split is None:
            split = _split(samples.devices, len(self._keys))
            if len(self._splits) >= MOST_SPLITS_KEPT:
                self._splits.clear()
            self._splits[samples.devices] = split
        shards = split.shard_of[samples.device]
        return [(self._keys[shard], _part(samples, shards == shard, split, int(shard))) for shard in np.unique(shards)]


def shard_of(device: str, shards: int) -> int:
    """The same in every process and release: states are kept by it.

    >>> shard_of("G1", 8), shard_of("G2", 8)
    (7, 5)
    """
    return zlib.crc32(device.encode(errors="replace")) % shards


def _split(devices: tuple[str, ...], shards: int) -> _Split:
    shard_by_code = np.array([shard_of(name, shards) for name in devices], dtype=np.int64)
    code_of = np.zeros(len(devices), dtype=np.int32)
    names: dict[int, list[str]] = {}
    for code, (name, shard) in enumerate(zip(devices, shard_by_code.tolist(), strict=True)):
        of_shard = names.setdefault(shard, [])
        code_of[code] = len(of_shard)
        of_shard.append(name)
    return _Split(shard_by_code, code_of, {shard: tuple(of_shard) for shard, of_shard in names.items()})


def _part(samples: Samples, rows: Any, split: _Split, shard: int) -> Samples:
    """Rows of one shard, with its devices alone: names of a thousand others need not go to another process."""
    part = samples.take(rows)
    return Samples(
        time_ns=part.time_ns,
        device=split.code_of[part.device],
        devices=split.devices[shard],
        columns=part.columns,
        quality=part.quality,
        received_ns=part.received_ns,
    )


class Counts(NamedTuple):
    """How many items the steps of a process ever made for others, and how many of others' they are done with."""

    made: int
    done: int


class InFlight:
    """Counts items on their way between the steps of a dataflow, over all workers of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = 0
        self._done = 0

    def add(self, *, made: int, done: int = 0) -> None:
        """Items are done once all that came of them is made."""
        with self._lock:
            self._made += made
            self._done += done

    @property
    def counts(self) -> Counts:
        with self._lock:
            return Counts(self._made, self._done)

    def __bool__(self) -> bool:
        made, done = self.counts
        return made > done
