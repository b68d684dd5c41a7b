"""`policy_system`: a connection to the policy system, which says within the site's limits what flows do."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from edgeflex_connectors.http_client import Answer
from edgeflex_connectors.rest import RestConfig, RestSession, certificate_until, open_session
from edgeflex_connectors.rest_retry import UNHANDLED_STATUSES, retry_after_s
from edgeflex_flow.errors import BadMessageError, FatalError, RetryableError
from edgeflex_flow.messages import Policy
from edgeflex_flow.node import ConnectionNode, Context, Delays, Probe, path, quantity
from edgeflex_flow.policy import (
    POLICIES,
    KeptEffects,
    PolicyAnswer,
    PolicyEffect,
    PolicySystemError,
    PolicyTerms,
    RefusedEffect,
)

POLICIES_PATH = "/api/v1/policies"
EFFECTS_PATH = "/api/v1/effects"
NOT_MODIFIED = 304
NO_ENTRY = (401, 403)
NO_SUCH_PATH = (301, 302, 307, 308, 404, 405)
NO_POLICY_SYSTEM = f"is `url` that of a policy system? Its path ends before '{POLICIES_PATH}'"
LONGEST_QUERY = 4000
"""Characters; services take urls of 8,000 at least (RFC 9110), and a proxy may put its own path before."""

Folder: TypeAlias = Annotated[str, path("A folder.")]


class PolicySystemConfig(RestConfig, frozen=True, kw_only=True):
    """The policy system of a site (`edgeflex serve policy`, or one that answers alike). A site has one at most.

    Its policies change the settings that flows bind to them, `{policy: …, field: …}`, while the flows run. Each flow
    asks for its policies alone, in one request each `refresh`; `ETag` spares the answer while nothing changed. What
    changed, and what was refused, is reported to it.

    The settings of `rest` hold here too, and say how this site shows who it is.

    What it said last is kept in the folder `keep`, a file for each flow, so that a flow which starts while the policy
    system is away goes on with it. Where it is away for longer than `max_age`, restarts included, the defaults of the
    flow files hold, and an alarm says so. Without `keep`, a restart begins with the defaults.

    Input:
        None: flows use the policy system of their site; `policy_read` names it in its field `policies`.

    Output:
        None. Counts under `policy system`: `requests`, `not_modified`, `failures` (of these `not_admitted`: it refused
        the credentials), `unreadable`, `withdrawn`, `version_back` (lower than before; taken all the same) and
        `not_applied` (policies), `keep_errors`, `keep_corrupt`, `effects_sent`, `effects_lost`.

    Errors:
        What the policy system does never ends the flow: what it said last holds. FatalError as of `rest`.

    Source:
        edgeFLEX deliverable D4.3, sections 5 and 7; RFC 9110 (ETag), RFC 4648 section 5 (base64url of ids).

    >>> PolicySystemConfig(url="https://policies.example", group="substation_12").refresh
    10.0
    """

    group: Annotated[str, Meta(min_length=1, max_length=200, description="Group of the policies of this site.")]
    refresh: Annotated[float, quantity("s", "How often it is asked for changes.", ge=0.1, le=86400)] = 10.0
    keep: Annotated[Folder | None, Meta(description="Folder in which flows keep what it said last.")] = None
    max_age: Annotated[
        float, quantity("s", "How long what it said last holds while it is away.", ge=1, le=366 * 86400)
    ] = 86400.0

    def __repr__(self) -> str:
        """Only what tells the connection; never a secret."""
        return f"PolicySystemConfig(url={self.url!r}, group={self.group!r})"


def encoded(text: str) -> str:
    """A group or id as it stands in a query: base64url without padding.

    >>> encoded("rocof_trigger")
    'cm9jb2ZfdHJpZ2dlcg'
    """
    return urlsafe_b64encode(text.encode(errors="replace")).rstrip(b"=").decode()


class _Listed(msgspec.Struct, frozen=True):
    policies: list[msgspec.Raw]


class _Id(msgspec.Struct, frozen=True):
    policy_id: str


def read_answer(body: bytes, etag: str, group: str) -> PolicyAnswer:
    """The policies in an answer. One that cannot be read costs no other. Raises PolicySystemError."""
    try:
        listed = msgspec.json.decode(body, type=_Listed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicySystemError(f"the answer holds no policies: {error}") from error
    found: dict[str, Policy] = {}
    unreadable: set[str] = set()
    for raw in listed.policies:
        try:
            policy = msgspec.json.decode(raw, type=Policy)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            unreadable.add(_id_of(raw))
            continue
        known = found.get(policy.policy_id)
        if policy.policy_group == group and (known is None or known.version < policy.version):
            found[policy.policy_id] = policy
    return PolicyAnswer(tuple(found.values()), etag, frozenset(unreadable - found.keys()))


def _id_of(raw: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=_Id).policy_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class RestPolicySystem:
    """A client of the policy system."""

    def __init__(self, config: PolicySystemConfig, session: RestSession) -> None:
        self._config = config
        self._session = session

    @property
    def terms(self) -> PolicyTerms:
        config = self._config
        return PolicyTerms(config.group, config.url, config.refresh, config.max_age, config.keep)

    def ask(self, policy_ids: Sequence[str], etag: str) -> PolicyAnswer | None:
        group = ("policy_group", encoded(self._config.group))
        query = [group, *(("policy_id", encoded(each)) for each in policy_ids)]
        if sum(len(name) + len(value) + 2 for name, value in query) > LONGEST_QUERY:
            query = [group]
        known = {"If-None-Match": etag} if etag else {}
        answer = self._request("GET", POLICIES_PATH, query, {"Accept": "application/json", **known}, None)
        if answer.status == NOT_MODIFIED and etag:
            return None
        if not answer.is_success:
            raise self._unusable(answer, f"GET {POLICIES_PATH}")
        try:
            return read_answer(answer.body, answer.headers.get("etag", ""), self._config.group)
        except PolicySystemError as error:
            text = f"{self._session.name}: GET {self._config.url}{POLICIES_PATH}: {error}; {NO_POLICY_SYSTEM}"
            raise PolicySystemError(text) from error

    def report(self, effects: Sequence[PolicyEffect]) -> Sequence[RefusedEffect]:
        body = msgspec.json.encode({"effects": effects})
        answer = self._request("POST", EFFECTS_PATH, (), {"Content-Type": "application/json"}, body)
        if not answer.is_success:
            raise self._unusable(answer, f"POST {EFFECTS_PATH}")
        try:
            return msgspec.json.decode(answer.body, type=KeptEffects).refused
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PolicySystemError(f"{self._session.name}: POST {EFFECTS_PATH}: {error}", is_final=True) from error

    def _request(
        self,
        method: str,
        where: str,
        query: Sequence[tuple[str, str]],
        headers: dict[str, str],
        content: bytes | None,
    ) -> Answer:
        try:
            return self._session.request(method, where, query=query, headers=headers, content=content)
        except RetryableError as error:
            raise PolicySystemError(str(error)) from error
        except BadMessageError as error:
            raise PolicySystemError(f"{self._session.name}: {method} {where}: {error}") from error

    def _unusable(self, answer: Answer, what: str) -> PolicySystemError:
        passes = answer.status in (401, 408, *UNHANDLED_STATUSES) or answer.status >= 500
        return PolicySystemError(
            f"{self._session.name}: {what}: {self._session.shown(answer)}{self._about(answer)}",
            wait_s=retry_after_s(answer),
            is_refusal=answer.status in NO_ENTRY,
            is_final=not passes,
        )

    def _about(self, answer: Answer) -> str:
        """What a person should look at."""
        if answer.status in NO_ENTRY:
            return f"; {self._session.about_refusal(answer)} (group '{self._config.group}')"
        return f"; {NO_POLICY_SYSTEM}" if answer.status in NO_SUCH_PATH else ""

    def abort(self) -> None:
        self._session.abort()

    def close(self) -> None:
        self._session.close()


def open_system(config: PolicySystemConfig, context: Context) -> RestPolicySystem:
    """A client of the policy system. Nothing is asked of the network yet."""
    return RestPolicySystem(config, open_session(config, context))


def probe(config: PolicySystemConfig, context: Context) -> Probe:
    """Ask for the policies of the group."""
    system = open_system(config, context)
    try:
        began_s = time.monotonic()
        answer = system.ask((), "")
        latency_s = time.monotonic() - began_s
    except PolicySystemError as error:
        if error.is_refusal:
            raise FatalError(str(error)) from error
        raise
    finally:
        system.close()
    if answer is None or (answer.unreadable and not answer.policies):
        text = "none of the policies in the answer can be read"
        raise FatalError(f"{context.node}: GET {config.url}{POLICIES_PATH}: {text}; {NO_POLICY_SYSTEM}")
    count = len(answer.policies)
    return Probe(latency_s, f"{count} policies of group '{config.group}'", certificate_until(config, context))


NODE = ConnectionNode(
    kind="policy_system",
    config=PolicySystemConfig,
    family=POLICIES,
    open=open_system,
    probe=probe,
    delays=lambda config: Delays(period_s=config.refresh),
)
