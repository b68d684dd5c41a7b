"""`store_write`: samples and messages into a store."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from edgeflex_connectors.store import EARLIEST_NS, LATEST_NS, Store, StoreConfig, StoredMessage, stored_message
from edgeflex_connectors.upkeep import Upkeep
from edgeflex_connectors.writer import QUIET_S, Writer
from edgeflex_flow.messages import Message, Samples
from edgeflex_flow.node import (
    ANY,
    DEFAULT_PORT,
    Context,
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
    in `columns` only what is new.

    While the store cannot be written to (disk full, locked, input/output error) rows are kept and tried again with
    growing waits, said in the log at growing intervals. At most `queue` rows wait; beyond that the oldest batches are
    dropped and their rows counted under `overflow_rows`.

    Input:
        in: Samples with `columns` (any columns if none are named), or any message.

    Output:
        None. Counts `rows`, `values` and `messages` that are committed, `commits`, `retries`, `overflow_rows`,
        `lost_rows` (still held when the flow ended); `downsampled` and `deleted` values, `upkeep_retries`.

    Errors:
        Dead letter `not_storable` for a message whose time no store can hold. FatalError: those of the store.

    Source:
        None.

    >>> StoreWriteConfig(store="history", commit_every=0.5).columns
    ()
    """

    store: Annotated[str, connection("store", "Connection to the store.")]
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
        self._store.write(samples, messages)
        batch.clear()
        if self._upkeep is not None:
            for each in samples:
                self._upkeep.note(each)
        self._counters.add("commits")
        self._counters.add("rows", sum(item.rows for item in samples))
        self._counters.add("values", sum(item.rows * len(item.columns) for item in samples))
        self._counters.add("messages", len(messages))


class StoreWrite:
    """The sink. The writer's thread alone uses the store."""

    def __init__(self, config: StoreWriteConfig, context: Context, store: Store | None = None) -> None:
        self._config = config
        self._context = context
        self._store = store
        self._writer: Writer[Item] | None = None
        self._upkeep: Upkeep | None = None
        self._quiet_s = QUIET_S

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
        self._writer.start()
        if self._upkeep is not None:
            self._upkeep.start()

    def write(self, messages: Sequence[WireMessage]) -> None:
        assert self._writer is not None
        items: list[Item] = []
        for message in messages:
            if isinstance(message, Message):
                self._add_message(message, items)
            elif message.rows:
                items.append(self._wanted(message))
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
        if stored.time_ns is not None and not EARLIEST_NS <= stored.time_ns <= LATEST_NS:
            text = f"a {type(message).__name__}: time {stored.time_ns} ns does not fit into 64 bits"
            self._context.dead_letter("not_storable", text, stored.body)
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
)
