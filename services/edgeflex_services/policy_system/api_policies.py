"""The policy access point: policies by REST. Ids of policies and groups are base64url texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from msgspec import Meta

from edgeflex_flow.messages import Policy
from edgeflex_flow.policy import KeptEffects, RefusedEffect
from edgeflex_flow.web import is_known
from edgeflex_services.policy_system.accounts import ROLES, User
from edgeflex_services.policy_system.catalogue import Entry
from edgeflex_services.policy_system.compare import Change, changes
from edgeflex_services.policy_system.documents import KINDS, read_document, schema_of
from edgeflex_services.policy_system.enforce import (
    NOT_THERE,
    AnyRequest,
    decoded_id,
    policy_of,
    reader_of,
    refuse_many,
    state_of,
    system_of,
    user_of,
)
from edgeflex_services.policy_system.journal import entry_of
from edgeflex_services.policy_system.repository import (
    AuditEntry,
    ConflictError,
    Effect,
    Grant,
    Reader,
    Saved,
    UnknownError,
    about,
)
from edgeflex_services.policy_system.rights import what_it_does
from edgeflex_services.policy_system.system import PolicySystem

JSON = "application/json"
NOT_MODIFIED = 304
MOST_IDS = 200
MOST_EFFECTS = 500

Id = Annotated[str, Parameter(max_length=128, description="base64url of the name, padded or not.")]
Version = Annotated[int, Parameter(ge=1, le=2**31 - 1)]


class Policies(msgspec.Struct, frozen=True):
    """Policies of a group."""

    policies: list[Policy]


class NewVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be saved."""

    document: Annotated[
        dict[str, Any],
        Meta(
            description="The policy, as the schema of its kind says.",
            examples=[{"kind": "operational_bounds", "fields": {"voltage_max": "1.05 pu"}}],
        ),
    ]
    based_on: Annotated[int, Meta(ge=0, le=2**31 - 2, description="The version that was changed; 0: a new policy.")]
    comment: Annotated[str, Meta(max_length=400, description="Why.")] = ""


class VersionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a policy."""

    group: str
    policy_id: str
    version: int
    withdrawn: bool
    saved_by: str
    saved_ns: int
    comment: str
    document: dict[str, Any] | None = None

    @classmethod
    def of(cls, saved: Saved, *, whole: bool) -> VersionInfo:
        told = {name: value for name, value in saved._asdict().items() if name != "document"}
        return cls(**told, document=msgspec.to_builtins(saved.document) if whole else None)


class NewEffects(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What policies changed in a flow."""

    effects: Annotated[list[Effect], Meta(min_length=1, max_length=MOST_EFFECTS)]


class ToldEffect(msgspec.Struct, frozen=True):
    """An effect and who told it."""

    user: str
    effect: Effect


class ChangedGrants(msgspec.Struct, frozen=True):
    """Who has a right to a policy from now on."""

    grants: list[Grant]
    says: str
    """What that does, in words."""


NO_EFFECT = "no such policy or version, or it is not yours to read as a member of its group"

REFUSED = {
    400: ResponseSpec(None, description="An id that is no base64url text, or a query that cannot be read."),
    401: ResponseSpec(None, description="No valid token."),
    403: ResponseSpec(None, description="A role or right is missing, which the answer names."),
    404: ResponseSpec(None, description="No such policy, or no right to read it: there is no telling them apart."),
    409: ResponseSpec(None, description="Somebody else saved first, or what is to be done must be confirmed."),
    413: ResponseSpec(None, description="The body is too long."),
    422: ResponseSpec(None, description="It is understood, and cannot be: `errors` tells what is wrong and where."),
    429: ResponseSpec(None, description="Too many refused tokens from this address; `Retry-After` tells how long."),
}


CHANGED_MEANWHILE = {412: ResponseSpec(None, description="Somebody else changed it since `If-Match`.")}


def _etag_of(grants: Sequence[Grant]) -> str:
    told = sorted(msgspec.structs.astuple(each) for each in grants)
    return f'"{hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:24]}"'


def _given(body: type[msgspec.Struct], description: str) -> ResponseSpec:
    # Examples that are made up hold random texts.
    return ResponseSpec(body, generate_examples=False, description=description)


def _served(request: AnyRequest, etag: str, body: bytes) -> Response[bytes]:
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if is_known(request, etag):
        return Response(b"", status_code=NOT_MODIFIED, headers=headers, media_type=JSON)
    return Response(body, headers=headers, media_type=JSON)


class AccessPoint(Controller):
    """Policies for those who follow them."""

    path = "/api/v1"
    tags: Sequence[str] | None = ["policies"]

    @get("/policy", responses={200: _given(Policy, "The policy."), **REFUSED}, sync_to_thread=False)
    def one(self, request: AnyRequest, policy_id: Id, policy_group: Id) -> Response[bytes]:
        """One policy by its id and group."""
        user_of(request)
        group, name = decoded_id(policy_group, "policy_group"), decoded_id(policy_id, "policy_id")
        user = reader_of(request, group)
        served = system_of(request).catalogue.serve_one(user, group, name)
        if served is None:
            raise HTTPException(NOT_THERE, status_code=404)
        return _served(request, served.etag, served.body)

    @get("/policies", responses={200: _given(Policies, "The policies."), **REFUSED}, sync_to_thread=False)
    def several(
        self,
        request: AnyRequest,
        policy_group: Id,
        policy_id: Annotated[list[str] | None, Parameter(max_items=MOST_IDS)] = None,
        asset_id: Annotated[str | None, Parameter(max_length=128)] = None,
    ) -> Response[bytes]:
        """The policies of a group that the caller may read: those with these ids, those for this asset, or all."""
        user_of(request)  # before anything is said of the query
        group = decoded_id(policy_group, "policy_group")
        user = reader_of(request, group)
        ids = None if policy_id is None else [decoded_id(each, "policy_id") for each in policy_id]
        asset = None if asset_id is None else decoded_id(asset_id, "asset_id")
        served = system_of(request).catalogue.serve(user, group, ids, asset)
        return _served(request, served.etag, served.body)

    @get("/schemas/{kind:str}", responses=REFUSED, sync_to_thread=False)
    def schema(self, request: AnyRequest, kind: str) -> dict[str, Any]:
        """JSON Schema of the documents of a kind."""
        user_of(request)
        if kind not in KINDS:
            raise HTTPException(f"no such kind; known: {', '.join(KINDS)}", status_code=404)
        return schema_of(kind)

    @post("/effects", status_code=200, responses=REFUSED, sync_to_thread=True)
    def tell_effects(self, request: AnyRequest, data: NewEffects) -> KeptEffects:
        """Tell what policies changed, or could not change, in a running flow.

        Needs the right to read them, and a role in their group; others are refused one by one.
        """
        user, limit = user_of(request), state_of(request).door.effects
        refuse_many(limit, user.name)
        limit.add(user.name, len(data.effects))
        system = system_of(request)
        is_known = [_may_have_effect(system, user, each) for each in data.effects]
        known = [each for each, is_kept in zip(data.effects, is_known, strict=True) if is_kept]
        if known:
            system.repository.add_effects(user.name, known)
        for effect in known:
            system.journal.add(entry_of(user.name, effect))
        refused = [RefusedEffect(at, NO_EFFECT) for at, is_kept in enumerate(is_known) if not is_kept]
        return KeptEffects(len(known), refused)


class PolicyRepository(Controller):
    """Versions of policies, and who may do what with them."""

    path = "/api/v1/policies/{group:str}/{policy_id:str}"
    tags: Sequence[str] | None = ["repository"]

    @get("/", responses=REFUSED, sync_to_thread=False)
    def newest(self, request: AnyRequest, group: Id, policy_id: Id) -> VersionInfo:
        """The newest version, withdrawn or not."""
        return VersionInfo.of(_entry(request, group, policy_id).saved, whole=True)

    @put("/", status_code=201, responses=REFUSED, sync_to_thread=True)
    def save(self, request: AnyRequest, group: Id, policy_id: Id, data: NewVersion) -> VersionInfo:
        """Save a new version. 409: somebody else saved since `based_on`. 422: what is wrong and where."""
        user, name, policy = _editor(request, group, policy_id)
        system = system_of(request)
        document = read_document(data.document)
        saved = system.repository.save(user, name, policy, document, based_on=data.based_on, comment=data.comment)
        return VersionInfo.of(saved, whole=True)

    @delete("/", status_code=200, responses=REFUSED, sync_to_thread=True)
    def withdraw(
        self, request: AnyRequest, group: Id, policy_id: Id, based_on: Version, comment: str = ""
    ) -> VersionInfo:
        """Withdraw a policy: flows go on with their defaults. All its versions stay, and it can be saved again."""
        user, name, policy = _editor(request, group, policy_id)
        system = system_of(request)
        newest = system.repository.version(name, policy, based_on)
        saved = system.repository.save(
            user, name, policy, newest.document, based_on=based_on, comment=comment[:400], withdrawn=True
        )
        return VersionInfo.of(saved, whole=True)

    @get("/versions", responses=REFUSED, sync_to_thread=True)
    def versions(self, request: AnyRequest, group: Id, policy_id: Id) -> list[VersionInfo]:
        """All versions, newest first, without their documents."""
        saved = _entry(request, group, policy_id).saved
        found = system_of(request).repository.versions(saved.group, saved.policy_id)
        return [VersionInfo.of(each, whole=False) for each in found]

    @get("/versions/{version:int}", responses=REFUSED, sync_to_thread=True)
    def version(self, request: AnyRequest, group: Id, policy_id: Id, version: Version) -> VersionInfo:
        """One version."""
        saved = _entry(request, group, policy_id).saved
        return VersionInfo.of(system_of(request).repository.version(saved.group, saved.policy_id, version), whole=True)

    @get("/changes", responses=REFUSED, sync_to_thread=True)
    def compared(self, request: AnyRequest, group: Id, policy_id: Id, before: Version, after: Version) -> list[Change]:
        """What differs between two versions."""
        saved = _entry(request, group, policy_id).saved
        repository = system_of(request).repository
        a, b = (repository.version(saved.group, saved.policy_id, version) for version in (before, after))
        return changes(a, b)

    @get("/readers", responses=REFUSED, sync_to_thread=True)
    def readers(self, request: AnyRequest, group: Id, policy_id: Id) -> list[Reader]:
        """Who read the policy, which version, and when."""
        saved = _entry(request, group, policy_id).saved
        return system_of(request).catalogue.readers(saved.group, saved.policy_id)

    @get("/effects", responses=REFUSED, sync_to_thread=True)
    def effects(self, request: AnyRequest, group: Id, policy_id: Id) -> list[ToldEffect]:
        """What it changed in flows, the newest first."""
        saved = _entry(request, group, policy_id).saved
        found = system_of(request).repository.effects(saved.group, saved.policy_id)
        return [ToldEffect(user, effect) for user, effect in found]

    @get("/audit", responses=REFUSED, sync_to_thread=True)
    def audit(self, request: AnyRequest, group: Id, policy_id: Id) -> list[AuditEntry]:
        """What was done with it, the newest first."""
        saved = _entry(request, group, policy_id).saved
        return system_of(request).repository.audit_entries(about(f"{saved.group}/{saved.policy_id}"))

    @get("/grants", responses=REFUSED, sync_to_thread=False)
    def grants(self, request: AnyRequest, group: Id, policy_id: Id) -> Response[list[Grant]]:
        """Who has a right to it; none: roles in the group decide. `ETag` is for `If-Match` of a change."""
        known = _entry(request, group, policy_id).grants
        return Response(list(known), headers={"ETag": _etag_of(known)})

    @put("/grants", status_code=200, responses=REFUSED | CHANGED_MEANWHILE, sync_to_thread=True)
    def set_grants(
        self,
        request: AnyRequest,
        group: Id,
        policy_id: Id,
        data: list[Grant],
        everybody: bool = False,
    ) -> ChangedGrants:
        """Say who alone has a right to it; the answer says what that does. Needs the role `manager` in the group.

        Without grants the roles in the group decide again: `everybody=true` confirms that. 412: somebody else changed
        them since `If-Match`.
        """
        entry = _entry(request, group, policy_id)
        user, saved = user_of(request), entry.saved
        if not user.may("manager", saved.group):
            raise PermissionDeniedException(f"role '{ROLES[-1]}' in the group is needed")
        if request.headers.get("if-match", "*").strip() not in ("*", _etag_of(entry.grants)):
            raise HTTPException("somebody else changed the grants meanwhile: look at them again", status_code=412)
        subjects = [(each.subject_kind, each.subject) for each in data]
        if len(set(subjects)) < len(subjects):
            raise ConflictError("one subject has two rights")
        system = system_of(request)
        says = what_it_does(entry, data, system.accounts.users())
        system.repository.set_grants(
            user.name, saved.group, saved.policy_id, data, based_on=entry.grants, everybody=everybody, says=says
        )
        return ChangedGrants(data, says)


def _may_have_effect(system: PolicySystem, user: User, effect: Effect) -> bool:
    """Whether there is such a version of a policy of a group of the user's, who may read it."""
    entry = system.catalogue.entry(user, effect.policy_group, effect.policy_id)
    if entry is None or not user.may("reader", effect.policy_group):
        return False
    if effect.version <= entry.saved.version:
        return True
    try:  # another instance may have saved it a moment ago
        system.repository.version(effect.policy_group, effect.policy_id, effect.version)
    except UnknownError:
        return False
    return True


def _entry(request: AnyRequest, group: str, policy_id: str) -> Entry:
    user = user_of(request)
    return policy_of(request, user, decoded_id(group, "group"), decoded_id(policy_id, "policy_id"))


def _editor(request: AnyRequest, group: str, policy_id: str) -> tuple[str, str, str]:
    """Name of who sends the request, group and id, after checking that they may save it.

    Who may not gets the same answer whether there is such a policy or not.
    """
    user = user_of(request)
    name, policy = decoded_id(group, "group"), decoded_id(policy_id, "policy_id")
    catalogue = system_of(request).catalogue
    is_readable = catalogue.entry(user, name, policy) is not None
    if is_readable or (user.may("editor", name) and not catalogue.is_new(name, policy)):
        policy_of(request, user, name, policy, "edit")
    elif not user.may("editor", name):
        if user.may("reader", name):
            raise PermissionDeniedException("role 'editor' in the group is needed")
        raise HTTPException(NOT_THERE, status_code=404)
    return user.name, name, policy
