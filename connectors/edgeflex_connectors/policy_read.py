"""`policy_read`: policies in from the policy system, as messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from edgeflex_connectors.handover import Handover
from edgeflex_flow.gauges import CONNECTED
from edgeflex_flow.messages import Policy
from edgeflex_flow.node import Context, NodeConfig, SourceNode, Wire, WireMessage, at_once, connection, message_wire
from edgeflex_flow.policy import POLICIES, PolicySystem
from edgeflex_flow.policy_watch import InForcePolicies, PolicyWatch, keep_of


class PolicyReadConfig(NodeConfig, frozen=True, kw_only=True):
    """Read policies from the site's policy system, for services that follow them by another way than this program.

    Gives each policy that holds, all at start and then each that changed, with the version that it has in the policy
    system. `refresh`, `keep` and `max_age` of the connection hold here too.

    A policy that holds no longer, since it is withdrawn, its time is over or the policy system is away for longer than
    `max_age`, is given once more without fields, and with the time at which that was seen as its `valid_until_ns`: who
    reads it goes back to the defaults. With `keep` this also reaches policies that were withdrawn while the flow was
    not running.

    While the policy system has not answered since the flow began, policies come from disk; those say in
    `last_contact_ns` when it was last in contact, and come again without it once it answers.

    Input:
        None: policies of the connection's group.

    Output:
        Messages `policy`. Counts as the connection does, see `policy_system`.

    Errors:
        None of the policy system ends the flow. FatalError as of `rest`.

    Source:
        edgeFLEX deliverable D4.3, section 5.

    >>> PolicyReadConfig(policies="policies", ids=("rocof_trigger",)).ids
    ('rocof_trigger',)
    """

    policies: Annotated[str, connection(POLICIES, "Connection to the policy system.")]
    ids: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...], Meta(description="Ids of the policies; none: all of the group.")
    ] = ()


class PolicyRead:
    """The source. The thread of a `PolicyWatch` says what holds; `poll` gives what of it is new."""

    def __init__(self, config: PolicyReadConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._watch: PolicyWatch | None = None
        self._seen: dict[str, Policy] = {}
        """By id, all that were ever known, those from disk too."""
        self._given: dict[str, Policy] = {}
        """By id, what was given last, or is about to be."""
        self._handover = Handover[str, Policy]()
        """By id, the newest of each alone: how it was in between nobody needs."""

    def open(self) -> None:
        context = self._context
        opened = context.connections["policies"]
        system: PolicySystem = opened.node.open(opened.config, context)
        self._handover.open()
        self._watch = PolicyWatch(
            system,
            self._config.ids,
            keep=keep_of(system, context.folder, (context.site, context.flow, context.node)),
            clock=context.clock,
            counters=context.counters,
            log=context.log,
            on_change=self._changed,
            on_fatal=context.fail,
        )
        watch, gauges = self._watch, context.gauges
        gauges.watch(CONNECTED, lambda: watch.is_connected)
        gauges.watch("policy_age_s", lambda: watch.age_s if watch.is_known else None)
        watch.start()

    def _changed(self, in_force: InForcePolicies) -> None:
        """Called by the thread of the watch, and once by `open`."""
        self._seen.update(in_force.known)
        if in_force.is_kept and not in_force.is_asked:
            return  # what is on disk is for the case that the policy system does not answer
        news = {name: policy for name, policy in self._wanted(in_force).items() if policy != self._given.get(name)}
        self._given.update(news)
        self._handover.put(news)

    def _wanted(self, in_force: InForcePolicies) -> dict[str, Policy]:
        """What readers should know of each policy."""
        now_ns = self._context.clock.now_ns()
        contact_ns = in_force.contact_ns if in_force.is_kept else None
        wanted = {name: replace(each, last_contact_ns=contact_ns) for name, each in in_force.policies.items()}
        for name, policy in self._seen.items():
            given = self._given.get(name)
            is_ahead = policy.valid_from_ns is not None and policy.valid_from_ns > now_ns
            if name in wanted or (given is None and is_ahead) or (given is not None and not given.fields):
                continue
            wanted[name] = replace(policy, fields={}, valid_from_ns=None, valid_until_ns=now_ns)
        return wanted

    def poll(self) -> Sequence[WireMessage]:
        return self._handover.take()

    @property
    def ended(self) -> bool:
        return False

    def fileno(self) -> int | None:
        return self._handover.fileno()

    def next_poll_ns(self) -> int | None:
        return None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._handover.close()


def output(_config: PolicyReadConfig, _inputs: Mapping[str, Wire]) -> Wire:
    return message_wire(Policy)


def open_source(config: PolicyReadConfig, context: Context) -> PolicyRead:
    return PolicyRead(config, context)


NODE = SourceNode(kind="policy_read", config=PolicyReadConfig, output=output, open=open_source, delays=at_once)
