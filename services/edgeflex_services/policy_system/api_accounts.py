"""Users, groups and their roles by REST, for administrators and those who manage a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from litestar import Controller, delete, get, post, put
from litestar.params import Parameter
from msgspec import Meta

from edgeflex_services.policy_system.accounts import Group, NewUser, Role, User
from edgeflex_services.policy_system.api_policies import REFUSED
from edgeflex_services.policy_system.documents import NAME
from edgeflex_services.policy_system.enforce import AnyRequest, admin_of, member_of, system_of, user_of
from edgeflex_services.policy_system.proof import HEAD, Head, Proof
from edgeflex_services.policy_system.repository import AuditEntry

NameInPath = Annotated[str, Parameter(pattern=NAME, max_length=64)]
MOST_ENTRIES = 500


class NewGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    about: Annotated[str, Meta(max_length=400)] = ""


class Membership(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Role


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    why: Annotated[str, Meta(min_length=1, max_length=400)]


class Secret(msgspec.Struct, frozen=True):
    """Told this once."""

    client_id: str
    client_secret: str


class UserApi(Controller):
    path = "/api/v1/users"
    tags: Sequence[str] | None = ["accounts"]

    @get("/", responses=REFUSED, sync_to_thread=True)
    def users(self, request: AnyRequest) -> list[User]:
        """All users. Administrators only."""
        admin_of(request)
        return system_of(request).accounts.users()

    @get("/me", responses=REFUSED, sync_to_thread=False)
    def me(self, request: AnyRequest) -> User:
        """Who the token shows."""
        return user_of(request)

    @put("/{name:str}", status_code=200, responses=REFUSED, sync_to_thread=True)
    def put_user(self, request: AnyRequest, name: NameInPath, data: NewUser) -> User:
        """Make or change a user: parts that are left out stay as they are. Administrators only."""
        actor = admin_of(request)
        system = system_of(request)
        system.accounts.put_user(actor.name, name, data)
        return system.accounts.user(name)

    @post("/{name:str}/secret", status_code=201, responses=REFUSED, sync_to_thread=True)
    def secret(self, request: AnyRequest, name: NameInPath) -> Secret:
        """A new client secret for OAuth 2.0 client credentials; the one before ends."""
        actor = admin_of(request)
        return Secret(name, system_of(request).accounts.new_secret(actor.name, name))

    @post("/{name:str}/disable", status_code=200, responses=REFUSED, sync_to_thread=True)
    def disable(self, request: AnyRequest, name: NameInPath, data: Why) -> User:
        """Refuse a user from now on, tokens that are out included."""
        actor = admin_of(request)
        system = system_of(request)
        system.accounts.disable(actor.name, name, data.why)
        return system.accounts.user(name)

    @post("/{name:str}/enable", status_code=200, responses=REFUSED, sync_to_thread=True)
    def enable(self, request: AnyRequest, name: NameInPath) -> User:
        """Allow a user again; tokens from before stay refused."""
        actor = admin_of(request)
        system = system_of(request)
        system.accounts.enable(actor.name, name)
        return system.accounts.user(name)

    @post("/{name:str}/revoke", status_code=200, responses=REFUSED, sync_to_thread=True)
    def revoke(self, request: AnyRequest, name: NameInPath) -> User:
        """Refuse all tokens that a user has now; new ones are good."""
        actor = admin_of(request)
        system = system_of(request)
        system.accounts.revoke_tokens(actor.name, name)
        return system.accounts.user(name)


class GroupApi(Controller):
    path = "/api/v1/groups"
    tags: Sequence[str] | None = ["accounts"]

    @get("/", responses=REFUSED, sync_to_thread=True)
    def groups(self, request: AnyRequest) -> list[Group]:
        """The groups in which the caller has a role and is not blocked; all of them for administrators."""
        user = user_of(request)
        found = system_of(request).accounts.groups()
        return [group for group in found if user.is_admin or group.name in user.groups]

    @put("/{name:str}", status_code=200, responses=REFUSED, sync_to_thread=True)
    def put_group(self, request: AnyRequest, name: NameInPath, data: NewGroup) -> NewGroup:
        """Make a group, or change what is said about it. Administrators only."""
        actor = admin_of(request)
        system = system_of(request)
        system.accounts.put_group(actor.name, name, data.about)
        return data

    @put("/{name:str}/members/{user:str}", status_code=200, responses=REFUSED, sync_to_thread=True)
    def set_role(self, request: AnyRequest, name: NameInPath, user: NameInPath, data: Membership) -> Membership:
        """Give a user a role in the group. Needs the role `manager` there."""
        _set_role(request, name, user, data.role)
        return data

    @delete("/{name:str}/members/{user:str}", status_code=204, responses=REFUSED, sync_to_thread=True)
    def remove(self, request: AnyRequest, name: NameInPath, user: NameInPath) -> None:
        """Take a user out of the group. Needs the role `manager` there."""
        _set_role(request, name, user, None)


def _set_role(request: AnyRequest, group: str, user: str, role: Role | None) -> None:
    actor = member_of(request, "manager", group)
    system = system_of(request)
    system.accounts.set_role(actor.name, group, user, role)


class AuditApi(Controller):
    path = "/api/v1/audit"
    tags: Sequence[str] | None = ["audit"]

    @get("/", responses=REFUSED, sync_to_thread=True)
    def entries(
        self,
        request: AnyRequest,
        before: Annotated[int | None, Parameter(ge=1, le=2**62)] = None,
        limit: Annotated[int, Parameter(ge=1, le=MOST_ENTRIES)] = 100,
    ) -> list[AuditEntry]:
        """What was done, the newest first. Administrators only."""
        admin_of(request)
        return system_of(request).repository.audit_entries(before=before, limit=limit)

    @get("/proof", responses=REFUSED, sync_to_thread=True)
    def proof(
        self,
        request: AnyRequest,
        head: Annotated[str | None, Parameter(pattern=HEAD, description="One that was noted elsewhere.")] = None,
    ) -> Proof:
        """Whether log and policies are as they were written, and the newest head. Administrators only."""
        admin_of(request)
        return system_of(request).repository.prove(None if head is None else Head.read(head))
