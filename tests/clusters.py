"""Clusters for tests: all processes of one in this process, each in a thread of its own."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from edgeflex_flow.errors import FatalError
from edgeflex_flow.flowfile.cluster import ClusterConfig
from edgeflex_flow.runtime.bytewax import run_in_cluster
from edgeflex_flow.runtime.run import FlowRun

PORTS = (12_000, 32_000)


def free_ports(count: int) -> list[int]:
    """TCP ports of this machine that nobody listens on, all different.

    None of those that the system gives to connections: one of these would come first to a port that is bound later.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(*PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports = list(dict.fromkeys([*ports, port]))
    return ports


def cluster_here(processes: int, *, workers: int = 1, shards: int | None = None, wait: float = 20.0) -> ClusterConfig:
    *ports, control = free_ports(processes + 1)
    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    return ClusterConfig(
        processes=addresses, workers=workers, shards=shards, control_port=control, wait=wait, secret="of the cluster"
    )


@contextmanager
def members(run: FlowRun, cluster: ClusterConfig) -> Iterator[list[FlowRun]]:
    """The runs of all processes but the first, which come to the first while the block runs."""
    runs = [FlowRun(run.plan, clock=run.clock) for _ in cluster.processes[1:]]
    errors: list[BaseException] = []

    def work(number: int, each: FlowRun) -> None:
        try:
            run_in_cluster(each, cluster, number)
        except FatalError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number, each)) for number, each in enumerate(runs, 1)]
    for thread in threads:
        thread.start()
    try:
        yield runs
    finally:
        for each in runs:
            each.stop()
        for thread in threads:
            thread.join()
    if run.failure is None:
        assert errors == []


def as_cluster(processes: int, *, workers: int = 1, shards: int | None = None) -> Callable[[FlowRun], None]:
    """Runs a flow as a cluster of so many processes."""

    def execute(run: FlowRun) -> None:
        cluster = cluster_here(processes, workers=workers, shards=shards)
        with members(run, cluster):
            run_in_cluster(run, cluster, 0)

    return execute
