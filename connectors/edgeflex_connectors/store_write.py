"""`store_write`: samples and messages into a store."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeflex_connectors.store import (
    EARLIEST_NS,
    LATEST_NS,
    Store,
    StoreConfig,
    StoredMessage,
    name_refusal,
    stored_message,
)
from edgeflex_connectors.upkeep import Upkeep
from edgeflex_connectors.writer import QUIET_S, Writer
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.messages import Message, Samples
from edgeflex_flow.node import (
    ANY,
    DEFAULT_PORT,
    Context,
    Delays,
    Input,
    NodeConfig,
    Progress,
    SinkNode,
    WireMessage,
    connection,
    quantity,
)

LARGE_ROWS = 50_000
"""Rows that are worth a commit of their own before `commit_every` is over."""


class StoreWriteConfig(NodeConfig, frozen=True, kw_only=True):
    """Keep samples and messages in a store, batched into one transaction each `commit_every`.

    Each value becomes a row with its time tag, device, column and quality flags; the same device, time and column
    written again replaces the row. A message is kept with its JSON; the same message written again is kept once.
    Several nodes, also of several flows, may write to one store. Its rules of down-sampling and of what is kept how
    long are applied by a thread beside the one that writes. While a source of the flow waits to acknowledge what has
    become durable, such as `mqtt_subscribe`, a transaction is also made as soon as nothing comes for 5 ms, and is on
    the disk before the source is told. (Not with Parquet, where each makes a file: there the source waits for
    `commit_every`, and gets as many messages in that time as its broker sends without acknowledgement.)

    A flow that reads a store and writes into the same one would write over what it has read, marked as `replayed`: name
    in `columns` only what is new. Without `columns` that is an error of the check.

    While the store cannot be written to (disk full, locked, input/output error) rows are kept and tried again with
    growing waits, said in the log at growing intervals. At most `queue` rows wait; beyond that the oldest batches are
    dropped and their rows counted under `overflow_rows`.

    Input:
        in: Samples with `columns` (any columns if none are named), or any message.

    Output:
        None. Counts `rows`, `values` and `messages` that are committed, without those that the store refused,
        `commits`, `retries`, `overflow_rows`, `lost_rows` (still held when the flow ended); `downsampled` and `deleted`
        values, `upkeep_retries`.

    Errors:
        Dead letter `not_storable` for a message whose time no store can hold, or whose type, id or device has more than
        512 bytes; and one for each batch with a device or column of such a name, whose rows are counted; the others are
        kept. FatalError: those of the store.

    Source:
        None.

    >>> StoreWriteConfig(store="history", commit_every=0.5).columns
    ()
    """

    store: Annotated[str, connection("store", "Connection to the store.", keeps="columns")]
    columns: Annotated[tuple[str, ...], Meta(description="Columns of the samples to keep; all if none are named.")] = ()
    commit_every: Annotated[float, quantity("s", "Shortest time between two transactions.", gt=0, le=60)] = 0.5
    queue: Annotated[
        int, Meta(ge=1, le=100_000_000, description="Rows held while the store is away; the oldest drop first.")
    ] = 500_000


Item = Samples | StoredMessage


class _StoreTarget:
    """Writes a batch to a store in one transaction and counts what is committed."""

    def __init__(self, store: Store, upkeep: Upkeep | None, context: Context) -> None:
        self._store = store
        self._upkeep = upkeep
        self._counters = context.counters
        self.open = store.open
        self.sync = store.sync
        self.close = store.close

    def write(self, batch: deque[Item]) -> None:
        samples = [item for item in batch if isinstance(item, Samples)]
        messages = [item for item in batch if isinstance(item, StoredMessage)]
        refused = self._store.write(samples, messages)
        batch.clear()
        if self._upkeep is not None:
            for each in samples:
                self._upkeep.note(each)
        self._counters.add("commits")
        self._counters.add("rows", sum(item.rows for item in samples) - refused.rows)
        self._counters.add("values", sum(map(_values_in, samples)) - refused.values)
        self._counters.add("messages", len(messages) - refused.messages)


def _values_in(samples: Samples) -> int:
    """NaN is no value."""
    return sum(samples.rows - int(np.count_nonzero(np.isnan(values))) for values in samples.columns.values())


class _Names:
    """Takes out of batches what no store can hold because of its name."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._devices: tuple[str, ...] = ()
        """Those of the last batch; sources keep them the same object."""
        self._refusals: dict[int, str] = {}
        """By their code."""
        self._kept: tuple[str, ...] = ()
        self._new_code: NDArray[np.int32] = np.empty(0, dtype=np.int32)

    def only_storable(self, samples: Samples) -> Samples:
        refusals = {name: text for name in samples.columns if (text := name_refusal("column", name))}
        if refusals:
            self._refuse(samples.rows, list(refusals.values()))
            kept = {name: values for name, values in samples.columns.items() if name not in refusals}
            samples = samples.with_columns(kept)
        if samples.devices is not self._devices:
            self._look_at(samples.devices)
        return self._of_kept_devices(samples) if self._refusals else samples

    def _look_at(self, devices: tuple[str, ...]) -> None:
        self._devices = devices
        self._refusals = {code: text for code, name in enumerate(devices) if (text := name_refusal("device", name))}
        kept = [code for code in range(len(devices)) if code not in self._refusals]
        self._kept = tuple(devices[code] for code in kept)
        self._new_code = np.full(len(devices), -1, dtype=np.int32)
        self._new_code[kept] = np.arange(len(kept))

    def _of_kept_devices(self, samples: Samples) -> Samples:
        """Without the others' names as well: a store keeps those that no row has, too."""
        device = self._new_code[samples.device]
        good = device >= 0
        refused = samples.device[~good]
        if len(refused):
            self._refuse(len(refused), [self._refusals[code] for code in np.unique(refused).tolist()])
        return msgspec.structs.replace(samples.take(good), device=device[good], devices=self._kept)

    def _refuse(self, rows: int, refusals: Sequence[str]) -> None:
        more = f", and {len(refusals) - 1} more such names" if len(refusals) > 1 else ""
        self._context.dead_letter("not_storable", f"{rows} rows: {refusals[0]}{more}", b"")
        self._context.counters.add("not_storable", rows - 1)  # the dead letter counts for one


def _refusal(stored: StoredMessage) -> str | None:
    """Why not every store can hold a message; None if it can."""
    if stored.time_ns is not None and not EARLIEST_NS <= stored.time_ns <= LATEST_NS:
        return f"time {stored.time_ns} ns does not fit into 64 bits"
    names = {"type": stored.type, "id": stored.id, "device": stored.device or ""}
    return next((text for what, name in names.items() if (text := name_refusal(what, name))), None)


class StoreWrite:
    """The sink. The writer's thread alone uses the store."""

    def __init__(self, config: StoreWriteConfig, context: Context, store: Store | None = None) -> None:
        self._config = config
        self._context = context
        self._store = store
        self._writer: Writer[Item] | None = None
        self._upkeep: Upkeep | None = None
        self._quiet_s = QUIET_S
        self._names = _Names(context)

    def open(self) -> None:
        if self._store is None:
            named = self._context.connections["store"]
            self._store = named.node.open(named.config, self._context)
            if isinstance(named.config, StoreConfig):
                self._quiet_s = QUIET_S if named.config.hurries else math.inf
                if named.config.needs_upkeep:
                    own_store = named.node.open(named.config, self._context)
                    self._upkeep = Upkeep(own_store, named.config, self._context)
        assert self._store is not None
        self._writer = Writer(
            _StoreTarget(self._store, self._upkeep, self._context),
            self._context,
            rows_of=lambda item: item.rows if isinstance(item, Samples) else 1,
            queue_rows=self._config.queue,
            every_s=self._config.commit_every,
            large_rows=LARGE_ROWS,
            quiet_s=self._quiet_s,
        )
        writer = self._writer
        self._context.gauges.watch(CONNECTED, lambda: not writer.is_failing)
        writer.start()
        if self._upkeep is not None:
            self._upkeep.start()

    def write(self, messages: Sequence[WireMessage]) -> None:
        assert self._writer is not None
        items: list[Item] = []
        for message in messages:
            if isinstance(message, Message):
                self._add_message(message, items)
            elif message.rows:
                wanted = self._names.only_storable(self._wanted(message))
                items += [wanted] if wanted.rows else []
        self._writer.put(items)

    def _wanted(self, samples: Samples) -> Samples:
        if not self._config.columns:
            return samples
        return samples.with_columns({name: samples.columns[name] for name in self._config.columns})

    def _add_message(self, message: Message, items: list[Item]) -> None:
        try:
            stored = stored_message(message)
        except (ValueError, OverflowError) as error:
            self._context.dead_letter("not_storable", f"a {type(message).__name__}: {error}", b"")
            return
        refusal = _refusal(stored)
        if refusal is not None:
            self._context.dead_letter("not_storable", f"a {type(message).__name__}: {refusal}", stored.body)
            return
        items.append(stored)

    def progress(self) -> Progress:
        return Progress(0, 0) if self._writer is None else self._writer.progress()

    def hurry(self) -> None:
        if self._writer is not None:
            self._writer.hurry()

    def flush(self, timeout_s: float) -> bool:
        return self._writer is None or self._writer.flush(timeout_s)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._upkeep is not None:
            self._upkeep.close()
            self._upkeep = None


def open_sink(config: StoreWriteConfig, context: Context) -> StoreWrite:
    return StoreWrite(config, context)


NODE = SinkNode(
    kind="store_write",
    config=StoreWriteConfig,
    inputs={DEFAULT_PORT: Input(accepts=ANY, needs=lambda config: config.columns)},
    open=open_sink,
    delays=lambda config: Delays(lag_s=config.commit_every),
)
