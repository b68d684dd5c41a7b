"""Pages of users and groups, for administrators and those who manage a group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.exceptions import HTTPException, PermissionDeniedException

from edgeflex_flow.passwords import SHORTEST_PASSWORD
from edgeflex_flow.web_pages import Form
from edgeflex_services.policy_system.accounts import (
    BLOCKED,
    ROLES,
    BadAccountError,
    Group,
    NewUser,
    Role,
    User,
)
from edgeflex_services.policy_system.documents import Name
from edgeflex_services.policy_system.enforce import AnyRequest, system_of
from edgeflex_services.policy_system.pages_common import Visitor, html, html_form, see_other
from edgeflex_services.policy_system.repository import UnknownError, about_user

MOST_AUDIT = 20
LONGEST_WORDS = 400
NAME_TEXT = "begins with a letter or digit, then letters, digits, _ . - (64 at most)"


def admin_only(visitor: Visitor) -> User:
    """Raises PermissionDenied."""
    if not visitor.user.is_admin:
        raise PermissionDeniedException("Only administrators may see this page.")
    return visitor.user


class UserPages(Controller):
    path = "/users"
    include_in_schema = False

    @get("/", sync_to_thread=True)
    def several(self, request: AnyRequest, visitor: Visitor) -> Response[str]:
        admin_only(visitor)
        return _users_page(request, visitor)

    @post("/", status_code=303, sync_to_thread=True)
    def add(self, request: AnyRequest, visitor: Visitor, form: Form) -> Response[Any]:
        """Add a user."""
        actor, system = admin_only(visitor), system_of(request)
        name = form.text("name")
        errors = _name_errors(name, "user", [each.name for each in system.accounts.users()])
        wanted, more = _wanted_user(form)
        if errors or more:
            return _users_page(request, visitor, errors={**errors, **more}, typed=form)
        system.accounts.put_user(actor.name, name, msgspec.convert(wanted, NewUser))
        return see_other(f"/users/{name}", done="added")

    @get("/{name:str}", sync_to_thread=True)
    def one(self, request: AnyRequest, visitor: Visitor, name: str, done: str = "") -> Response[str]:
        admin_only(visitor)
        return _user_page(request, visitor, name, done=done)

    @post("/{name:str}", status_code=303, sync_to_thread=True)
    def change(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[Any]:
        """What is said about a user, administration, a new password."""
        admin_only(visitor)
        wanted, errors = _wanted_user(form)
        return _put(request, visitor, name, wanted, errors, form, done="changed")

    @post("/{name:str}/keys", status_code=303, sync_to_thread=True)
    def set_keys(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[Any]:
        """Replace the public keys by which a service's tokens are checked; one in PEM format is added to them."""
        admin_only(visitor)
        text = form.text("jwks")
        if "PRIVATE" in text or '"d"' in text:
            form["jwks"] = [""]  # it is refused, and does not stand in the page again
        if text.startswith("-----BEGIN"):
            return _put(request, visitor, name, {"public_key": text}, {}, form, done="keys")
        try:
            jwks = json.loads(text) if text else {"keys": []}
            errors = {} if isinstance(jwks, dict) else {"jwks": 'a key set is an object: {"keys": […]}'}
        except (ValueError, RecursionError) as error:
            jwks, errors = {}, {"jwks": f"no JSON, and no key in PEM format: {error}"}
        return _put(request, visitor, name, {"jwks": jwks}, errors, form, done="keys")

    @post("/{name:str}/secret", status_code=200, sync_to_thread=True)
    def secret(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[str]:
        """A new client secret, on this one page."""
        del form
        actor = admin_only(visitor)
        shown = system_of(request).accounts.new_secret(actor.name, name)
        return html(request, "secret.html", visitor, name=name, secret=shown)

    @post("/{name:str}/disable", status_code=303, sync_to_thread=True)
    def disable(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[Any]:
        """Refuse a user from now on."""
        actor, system = admin_only(visitor), system_of(request)
        why = form.text("why")
        if not 0 < len(why) <= LONGEST_WORDS:
            problem = f"say why, in {LONGEST_WORDS} characters at most"
            return _user_page(request, visitor, name, errors={"why": problem}, typed=form)
        try:
            system.accounts.disable(actor.name, name, why)
        except BadAccountError as error:
            return _user_page(request, visitor, name, errors={"why": str(error)}, typed=form)
        return see_other(f"/users/{name}", done="disabled")

    @post("/{name:str}/enable", status_code=303, sync_to_thread=True)
    def enable(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[Any]:
        """Allow a user again."""
        del form
        system_of(request).accounts.enable(admin_only(visitor).name, name)
        return see_other(f"/users/{name}", done="enabled")

    @post("/{name:str}/revoke", status_code=303, sync_to_thread=True)
    def revoke(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[Any]:
        """Refuse all tokens and end all sessions that a user has now."""
        del form
        system_of(request).accounts.revoke_tokens(admin_only(visitor).name, name)
        return see_other(f"/users/{name}", done="revoked")

    @post("/{name:str}/roles", status_code=303, sync_to_thread=True)
    def set_role(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[Any]:
        """Give a role in a group, or take it."""
        actor = admin_only(visitor)
        problem = _set_role(request, actor, form.text("group"), name, form.text("role"))
        if problem:
            return _user_page(request, visitor, name, errors={"role": problem}, typed=form)
        return see_other(f"/users/{name}", done="roles")


class GroupPages(Controller):
    path = "/groups"
    include_in_schema = False

    @get("/", sync_to_thread=True)
    def several(self, request: AnyRequest, visitor: Visitor) -> Response[str]:
        return _groups_page(request, visitor)

    @post("/", status_code=303, sync_to_thread=True)
    def add(self, request: AnyRequest, visitor: Visitor, form: Form) -> Response[Any]:
        """Add a group."""
        actor, system = admin_only(visitor), system_of(request)
        name, about = form.text("name"), form.text("about")
        errors = _name_errors(name, "group", [each.name for each in system.accounts.groups()]) | _about_error(about)
        if errors:
            return _groups_page(request, visitor, errors=errors, typed=form)
        system.accounts.put_group(actor.name, name, about)
        return see_other(f"/groups/{name}", done="added")

    @get("/{name:str}", sync_to_thread=True)
    def one(self, request: AnyRequest, visitor: Visitor, name: str, done: str = "") -> Response[str]:
        return _group_page(request, visitor, name, done=done)

    @post("/{name:str}", status_code=303, sync_to_thread=True)
    def change(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[Any]:
        """Change what is said about a group."""
        actor, system = admin_only(visitor), system_of(request)
        _group(request, visitor, name)
        errors = _about_error(form.text("about"))
        if errors:
            return _group_page(request, visitor, name, errors=errors, typed=form)
        system.accounts.put_group(actor.name, name, form.text("about"))
        return see_other(f"/groups/{name}", done="changed")

    @post("/{name:str}/members", status_code=303, sync_to_thread=True)
    def set_role(self, request: AnyRequest, visitor: Visitor, form: Form, name: str) -> Response[Any]:
        """Give somebody a role in the group, or take it."""
        _group(request, visitor, name)
        if not visitor.user.may("manager", name):
            raise PermissionDeniedException("Only who manages the group may say who is in it.")
        problem = _set_role(request, visitor.user, name, form.text("user"), form.text("role"))
        if problem:
            return _group_page(request, visitor, name, errors={"user": problem}, typed=form)
        return see_other(f"/groups/{name}", done="members")


# Pages --------------------------------------------------------------------------------------------------------------


def _users_page(
    request: AnyRequest, visitor: Visitor, errors: Mapping[str, str] | None = None, typed: Form | None = None
) -> Response[str]:
    users = system_of(request).accounts.users()
    return html_form(request, "users.html", visitor, errors, typed, users=users)


def _user_page(
    request: AnyRequest,
    visitor: Visitor,
    name: str,
    *,
    errors: Mapping[str, str] | None = None,
    typed: Form | None = None,
    done: str = "",
) -> Response[str]:
    system = system_of(request)
    shown = system.accounts.user(name)
    return html_form(
        request,
        "user.html",
        visitor,
        errors,
        typed,
        shown=shown,
        groups=[each.name for each in system.accounts.groups()],
        roles=(*ROLES, BLOCKED),
        jwks=json.dumps(shown.jwks, indent=2) if shown.jwks.get("keys") else "",
        audit=system.repository.audit_entries(about_user(name), limit=MOST_AUDIT),
        done=done,
        is_self=name == visitor.user.name,
    )


def _groups_page(
    request: AnyRequest, visitor: Visitor, errors: Mapping[str, str] | None = None, typed: Form | None = None
) -> Response[str]:
    groups = [each for each in system_of(request).accounts.groups() if _may_see(visitor.user, each)]
    return html_form(request, "groups.html", visitor, errors, typed, groups=groups)


def _group_page(
    request: AnyRequest,
    visitor: Visitor,
    name: str,
    *,
    errors: Mapping[str, str] | None = None,
    typed: Form | None = None,
    done: str = "",
) -> Response[str]:
    system, user = system_of(request), visitor.user
    return html_form(
        request,
        "group.html",
        visitor,
        errors,
        typed,
        group=_group(request, visitor, name),
        roles=(*ROLES, BLOCKED),
        may_manage=user.may("manager", name),
        may_edit=user.may("editor", name),
        # A manager types a name; the list of all users is for administrators.
        known=[each.name for each in system.accounts.users()] if user.is_admin else [],
        policies=system.catalogue.readable(user, name),
        done=done,
    )


def _may_see(user: User, group: Group) -> bool:
    return user.is_admin or group.name in user.groups


def _group(request: AnyRequest, visitor: Visitor, name: str) -> Group:
    for group in system_of(request).accounts.groups():
        if group.name == name and _may_see(visitor.user, group):
            return group
    raise HTTPException("There is no such group, or you are not in it.", status_code=404)


# What was typed -----------------------------------------------------------------------------------------------------


def _wanted_user(form: Form) -> tuple[dict[str, Any], dict[str, str]]:
    """What a user is to be, and what is wrong with it by field."""
    wanted: dict[str, Any] = {"about": form.text("about"), "is_admin": bool(form.text("is_admin"))}
    errors = _about_error(wanted["about"])
    password = form.get("password", [""])[-1]
    if password:
        wanted["password"] = password
        if len(password) < SHORTEST_PASSWORD:
            errors["password"] = f"at least {SHORTEST_PASSWORD} characters; got {len(password)}"
    return wanted, errors


def _about_error(about: str) -> dict[str, str]:
    if len(about) <= LONGEST_WORDS:
        return {}
    return {"about": f"at most {LONGEST_WORDS} characters; got {len(about)}"}


def _name_errors(name: str, what: str, taken: list[str]) -> dict[str, str]:
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        return {"name": NAME_TEXT + (f"; got '{name}'" if name else "")}
    return {"name": f"there is a {what} '{name}' already"} if name in taken else {}


def _put(
    request: AnyRequest,
    visitor: Visitor,
    name: str,
    wanted: Mapping[str, Any],
    errors: dict[str, str],
    form: Form,
    *,
    done: str,
) -> Response[Any]:
    system = system_of(request)
    system.accounts.user(name)  # a form changes users that are there, it makes none
    field = "is_admin" if "is_admin" in wanted else "jwks"
    try:
        if not errors:
            system.accounts.put_user(visitor.user.name, name, msgspec.convert(wanted, NewUser))
    except (BadAccountError, msgspec.ValidationError) as error:
        errors = {field: str(error)}
    if errors:
        return _user_page(request, visitor, name, errors=errors, typed=form)
    return see_other(f"/users/{name}", done=done)


def _set_role(request: AnyRequest, actor: User, group: str, name: str, text: str) -> str:
    """Set or take a role; what is wrong with it."""
    role: Role | None = None
    if text:
        try:
            role = msgspec.convert(text, Role)
        except msgspec.ValidationError:
            return f"there is no role '{text}'"
    system = system_of(request)
    try:
        system.accounts.set_role(actor.name, group, name, role)
    except UnknownError as error:
        return str(error)
    return ""
