"""What nodes of a run go on with, as recordings keep it: kinds with their versions, wires, settings, policies."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import msgspec

from edgeflex_flow import __version__
from edgeflex_flow.flowfile.plan import PlannedNode
from edgeflex_flow.node import NodeConfig, OperatorNode
from edgeflex_flow.recording import Settings
from edgeflex_flow.runtime.run import FlowRun

OWN_PACKAGES = ("edgeflex_flow", "edgeflex_operators", "edgeflex_connectors")
CODE_DIGITS = 16


def settings_of(run: FlowRun, planned: PlannedNode, *, seq: int, at_ns: int) -> Settings:
    """Of one node, as they are now. Connectors' settings may hold secrets: they stay out."""
    config, policies = run.in_force[planned.id]
    is_operator = isinstance(planned.node, OperatorNode)
    return Settings(
        node=planned.id,
        seq=seq,
        at_ns=at_ns,
        kind=planned.node.kind,
        version=version_of(planned.node.config),
        code=code_of(planned.node.config),
        inputs=dict(planned.inputs),
        config=msgspec.Raw(msgspec.json.encode(config)) if is_operator else msgspec.Raw(b"null"),
        policies=dict(policies),
    )


def version_of(config: type[NodeConfig]) -> str:
    """Of the package that a kind comes from."""
    return _version(config.__module__.partition(".")[0])


@cache
def _version(package: str) -> str:
    if package in OWN_PACKAGES:
        return __version__
    found = metadata.packages_distributions().get(package, [])  # takes 50 ms
    return metadata.version(found[0]) if found else ""


def code_of(config: type[NodeConfig]) -> str:
    """Digest of a kind's source with the modules of its package that it is built on; empty if it cannot be read."""
    return _code(config.__module__)


@cache
def _code(begin: str) -> str:
    digest = hashlib.sha256()
    for module in sorted(_built_on(begin)):
        file = getattr(sys.modules[module], "__file__", None)
        try:
            digest.update(b"" if file is None else Path(file).read_bytes())
        except OSError:
            return ""
    return digest.hexdigest()[:CODE_DIGITS]


def _built_on(begin: str) -> set[str]:
    """A module, and all of its package whose names stand in it, or in those."""
    package = begin.partition(".")[0]
    found, waiting = {begin}, [begin]
    while waiting:
        module = sys.modules.get(waiting.pop())
        for value in [] if module is None else list(vars(module).values()):
            name = value.__name__ if isinstance(value, type(sys)) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.partition(".")[0] == package and name in sys.modules.keys() - found:
                found.add(name)
                waiting.append(name)
    return found
