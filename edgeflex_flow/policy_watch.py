"""Follows the policies of a policy system: asks each period, keeps what it said last, and knows how old that is."""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from edgeflex_flow.clock import Clock
from edgeflex_flow.errors import FatalError, unforeseen
from edgeflex_flow.messages import Policy
from edgeflex_flow.node import Counters
from edgeflex_flow.policy import PolicyAnswer, PolicySystem, PolicySystemError
from edgeflex_flow.policy_keep import CorruptKeepError, KeptPolicies, PolicyKeep

FIRST_RETRY_S = 1.0
LEAST_LONGEST_RETRY_S, LONGEST_RETRY_S = 5.0, 60.0
"""The longest wait after failures is the period, within these limits: so a flow whose policy system is back is late by
no more than it is otherwise, and asks no more often than otherwise either."""
LONGEST_ASKED_S = 60.0
"""Longest wait that a policy system may ask for: it could keep a flow from its policies for long."""
JITTER = 0.5
"""Share of a wait that is left to chance, so that flows whose policy system went away at once do not come at once."""
CLOCK_LOOK_S = 1.0
"""The time of day may be set: it is looked at so often while a policy is to begin or end, or its age is from disk."""
MOST_KEEP_PERIOD_S = 60.0
"""The time of the last contact goes to disk so often at least; with a short `max_age` more often."""
KEEP_PERIODS = 50
"""Parts of `max_age` of which one is the longest that the time on disk is behind."""
LONGEST_CLOSE_S = 2.0
NS = 1e9


class InForcePolicies(NamedTuple):
    """What holds now."""

    policies: Mapping[str, Policy]
    """By id, those that are valid now; none when what the policy system said last is too old."""
    known: Mapping[str, Policy] = MappingProxyType({})
    """By id, all that the policy system said last."""
    withdrawn: frozenset[str] = frozenset()
    """Ids of those that were there before, and that the policy system does not give any more."""
    is_expired: bool = False
    """Whether it is away for longer than `max_age`."""
    contact_ns: int | None = None
    """Time of the last contact, UTC nanoseconds since 1970; None: never, as far as is known."""
    is_kept: bool = False
    """Whether this comes from disk, and the policy system has not answered since the program began."""
    is_asked: bool = False
    """Whether the first attempt to ask it has an end."""
    refused: str = ""
    """Why the policy system refuses this client, and what to look at, as it was when that began; empty: it does not."""


LAST_HOLDS, DEFAULTS_HOLD = "what was said last holds", "defaults hold"


def is_valid(policy: Policy, now_ns: int) -> bool:
    """Whether the policy says anything at this time, UTC nanoseconds since 1970."""
    begun = policy.valid_from_ns is None or policy.valid_from_ns <= now_ns
    return begun and (policy.valid_until_ns is None or now_ns < policy.valid_until_ns)


def retry_wait_s(failures: int, period_s: float, asked_s: float) -> float:
    """How long to wait after so many failures in a row, when the policy system asks to be left alone for so long."""
    longest_s = min(max(period_s, LEAST_LONGEST_RETRY_S), LONGEST_RETRY_S)
    wait_s = min(min(FIRST_RETRY_S, period_s) * 2.0 ** min(failures - 1, 32), longest_s)
    chance = random.uniform(0.0, JITTER)  # noqa: S311 - spreads calls
    return max(wait_s * (1 - chance), min(asked_s, LONGEST_ASKED_S) * (1 + chance))


class PolicyWatch:
    """Calls `on_change(in_force)` from its thread when other policies hold than before, and once at start.

    `start` loads what is on disk; then a thread asks each period. `answered` is set once the first attempt has an end,
    whatever it was.
    """

    def __init__(
        self,
        system: PolicySystem,
        policy_ids: Sequence[str],
        *,
        keep: PolicyKeep | None,
        clock: Clock,
        counters: Counters,
        log: logging.Logger,
        on_change: Callable[[InForcePolicies], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._system = system
        self._terms = system.terms
        self._ids = tuple(sorted(policy_ids))
        self._keep = keep
        self._clock = clock
        self._counters = counters
        self._log = log
        self._on_change = on_change
        self._on_fatal = on_fatal
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.answered = threading.Event()
        self._policies: dict[str, Policy] = {}
        self._withdrawn: frozenset[str] = frozenset()
        self._etag = ""
        self._contact_ns: int | None = None
        self._age_at_ns = clock.monotonic_ns()
        self._age_then_s = 0.0
        """How old what is known was at that time of the clock that does not jump."""
        self._is_kept = False
        self._told: InForcePolicies | None = None
        self._failures = 0
        self._refused = ""
        self._keep_fails = False
        self._kept_at_ns: int | None = None

    @property
    def age_s(self) -> float:
        """How long ago the policy system was last in contact, by a clock that does not jump within a run.

        Of what comes from disk, the larger age of this clock and of the time of day, which may be set only later.
        """
        age_s = self._age_then_s + (self._clock.monotonic_ns() - self._age_at_ns) / NS
        if self._is_kept and self._contact_ns is not None:
            return max(age_s, (self._clock.now_ns() - self._contact_ns) / NS)
        return age_s

    @property
    def is_known(self) -> bool:
        """Whether there was ever contact, in this run or an earlier one."""
        return self._contact_ns is not None

    @property
    def is_connected(self) -> bool:
        """Whether the policy system answered the last question of this run."""
        return self.is_known and not self._is_kept and not self._failures

    def start(self) -> None:
        """Take what is on disk, and begin to ask."""
        self._load()
        self._tell()
        self._thread = threading.Thread(target=self._run, name="policies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, which gives up a request that is on its way."""
        self._stop.set()
        self._system.abort()
        if self._thread is not None:
            self._thread.join(LONGEST_CLOSE_S)
            self._thread = None

    # The thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            # Flows that start together, as after a power failure, ask one after the other from the second time on.
            next_s = self._ask(self._now_s(), self._terms.refresh_s * random.uniform(0.1, 1.0))  # noqa: S311
            self._first_answer()
            while not self._stop.wait(self._wait_s(next_s)):
                if self._now_s() >= next_s:
                    next_s = self._ask(next_s, self._terms.refresh_s)
                self._tell()
                self._save(only_due=True)
        except Exception as error:  # noqa: BLE001 - the flow ends in order, and says why
            self._on_fatal(error if isinstance(error, FatalError) else unforeseen("policies cannot be followed", error))
        finally:
            self.answered.set()
            self._save(only_due=False)
            self._system.close()

    def _first_answer(self) -> None:
        self.answered.set()
        self._tell()

    def _now_s(self) -> float:
        return self._clock.monotonic_ns() / NS

    def _wait_s(self, next_s: float) -> float:
        """Until the next request, or until something else is due before."""
        wait_s = next_s - self._now_s()
        if not self._is_expired() and self._policies:
            wait_s = min(wait_s, self._terms.max_age_s - self.age_s)
        if self._is_kept:
            wait_s = min(wait_s, CLOCK_LOOK_S)
        now_ns = self._clock.now_ns()
        edges = [edge for each in self._policies.values() for edge in (each.valid_from_ns, each.valid_until_ns)]
        ahead = [edge - now_ns for edge in edges if edge is not None and edge > now_ns]
        if ahead:
            wait_s = min(wait_s, min(ahead) / NS)
        if any(edge is not None for edge in edges):
            wait_s = min(wait_s, CLOCK_LOOK_S)
        return max(wait_s, 0.0)

    def _ask(self, due_s: float, period_s: float) -> float:
        """Ask once, as was due; when the next request is."""
        self._counters.add("requests")
        try:
            answer = self._system.ask(self._ids, self._etag)
        except PolicySystemError as error:
            return self._now_s() + self._failed(error)
        except FatalError:
            raise
        except Exception as error:  # noqa: BLE001 - asking goes on whatever happened
            self._log.debug("policies: asking failed", exc_info=True)
            return self._now_s() + self._failed(PolicySystemError(f"{type(error).__name__}: {error}"))
        if self._failures:
            self._log.info("policies: '%s' answers again after %d failures", self._terms.url, self._failures)
            self._failures = 0
            self._refused = ""
        self._contact_ns = self._clock.now_ns()
        self._age_at_ns, self._age_then_s = self._clock.monotonic_ns(), 0.0
        self._is_kept = False
        if answer is None:
            self._counters.add("not_modified")
        changed = answer is not None and self._take(answer)
        self._tell()
        self._save(only_due=not changed)
        # After a slow answer, or a computer that slept, missed requests are left out.
        missed = max(math.floor((self._now_s() - due_s) / period_s), 0)
        return due_s + (missed + 1) * period_s

    def _failed(self, error: PolicySystemError) -> float:
        """Count and tell a failure; how long to wait."""
        if self._stop.is_set():
            return 0.0
        self._failures += 1
        self._counters.add_all(failures=1, not_admitted=int(error.is_refusal))
        if self._failures & (self._failures - 1) == 0:  # the 1st, 2nd, 4th, 8th …: lines at growing intervals
            holds = self._policies and not self._is_expired()
            self._log.warning("policies: %s; %s; trying again", error, LAST_HOLDS if holds else DEFAULTS_HOLD)
        if error.is_refusal or error.is_final:
            self._refused = self._refused or str(error)
        return retry_wait_s(self._failures, self._terms.refresh_s, error.wait_s)

    def _take(self, answer: PolicyAnswer) -> bool:
        """Use an answer; whether other policies are known by it than before."""
        wanted = set(self._ids)
        given = {each.policy_id: each for each in answer.policies if not wanted or each.policy_id in wanted}
        unreadable = [each for each in answer.unreadable if not wanted or each in wanted]
        if unreadable:
            self._counters.add("unreadable", len(unreadable))
            names = ", ".join(repr(each) for each in sorted(unreadable))
            self._log.warning("policies: %s cannot be read; what was known of them holds", names)
        kept = {each: self._policies[each] for each in unreadable if each in self._policies}
        new = {**kept, **given}
        withdrawn = frozenset(self._policies.keys() - new.keys())
        for name in sorted(withdrawn):
            self._counters.add("withdrawn")
            self._log.warning("policies: %r is withdrawn, or not for this site any more; %s", name, DEFAULTS_HOLD)
        self._tell_back(given)
        changed = new != self._policies
        self._withdrawn = frozenset((self._withdrawn | withdrawn) - new.keys())
        # Of an answer that cannot be read as a whole the next one is wanted in any case.
        self._policies, self._etag = new, "" if unreadable else answer.etag
        return changed

    def _tell_back(self, given: Mapping[str, Policy]) -> None:
        """Tell of versions lower than those known. They are taken: the policy system decides."""
        for name, policy in sorted(given.items()):
            known = self._policies.get(name)
            if known is not None and policy.version < known.version:
                self._counters.add("version_back")
                text = "policies: %r is version %d now, and was %d: the policy system went back"
                self._log.warning(text, name, policy.version, known.version)

    def _is_expired(self) -> bool:
        return bool(self._policies) and self.age_s >= self._terms.max_age_s

    def _tell(self) -> None:
        """Say what holds now, if that is not what was said last."""
        now_ns, is_expired = self._clock.now_ns(), self._is_expired()
        valid = {} if is_expired else {name: each for name, each in self._policies.items() if is_valid(each, now_ns)}
        known = dict(self._policies)
        now = InForcePolicies(
            valid,
            known,
            self._withdrawn,
            is_expired,
            self._contact_ns,
            self._is_kept,
            self.answered.is_set(),
            self._refused,
        )
        # The time of contact alone is nothing new.
        if self._told is None or now._replace(contact_ns=None) != self._told._replace(contact_ns=None):
            self._told = now
            try:
                self._on_change(now)
            except Exception:  # noqa: BLE001 - what nobody foresaw must end neither the flow nor the asking
                self._counters.add("not_applied")
                self._log.exception("policies: what holds now cannot be used")

    # The disk -------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        if self._keep is None:
            return
        try:
            kept = self._keep.load()
        except CorruptKeepError as error:
            self._counters.add("keep_corrupt")
            self._log.error("policies: %s", error)
            return
        except OSError as error:
            self._keep_failed(error)
            return
        if kept is None or (kept.url, kept.group) != (self._terms.url, self._terms.group):
            return
        wanted = set(self._ids)
        self._policies = {each.policy_id: each for each in kept.policies if not wanted or each.policy_id in wanted}
        self._etag = kept.etag if kept.asked == self._ids else ""
        self._contact_ns = kept.contact_ns
        # By the time of day it may seem younger than it was when it was written: then that clock was set back.
        self._age_then_s = max(kept.age_s, (self._clock.now_ns() - kept.contact_ns) / NS)
        self._age_at_ns = self._clock.monotonic_ns()
        self._is_kept = True

    def _save(self, *, only_due: bool) -> None:
        """Keep what is known. It is no reason to stop that this fails."""
        if self._keep is None or self._contact_ns is None:
            return
        now_ns = self._clock.monotonic_ns()
        period_s = min(self._terms.max_age_s / KEEP_PERIODS, MOST_KEEP_PERIOD_S)
        if only_due and self._kept_at_ns is not None and now_ns - self._kept_at_ns < period_s * NS:
            return
        self._kept_at_ns = now_ns
        kept = KeptPolicies(
            url=self._terms.url,
            group=self._terms.group,
            asked=self._ids,
            policies=tuple(self._policies.values()),
            etag=self._etag,
            contact_ns=self._contact_ns,
            age_s=self.age_s,
        )
        try:
            self._keep.save(kept)
        except OSError as error:
            self._keep_failed(error)
            return
        if self._keep_fails:
            self._log.info("policies: '%s' can be written again", self._keep.file)
            self._keep_fails = False

    def _keep_failed(self, error: OSError) -> None:
        assert self._keep is not None
        self._counters.add("keep_errors")
        if not self._keep_fails:
            reason = error.strerror or error
            self._log.error("policies: '%s': %s; a restart may begin with defaults", self._keep.file, reason)
        self._keep_fails = True


def keep_of(system: PolicySystem, folder: Path, reader: tuple[str, ...]) -> PolicyKeep | None:
    """Where a reader keeps what the policy system said; `folder`: where relative paths start. None: nowhere."""
    keep = system.terms.keep
    return None if keep is None else PolicyKeep(folder / Path(keep).expanduser(), reader)
