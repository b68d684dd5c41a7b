"""Pages of policies: the list, a policy with all that is known of it, two versions compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.exceptions import PermissionDeniedException
from litestar.params import Parameter

from edgeflex_flow.web_pages import Form
from edgeflex_services.policy_system.accounts import User
from edgeflex_services.policy_system.api_policies import Version
from edgeflex_services.policy_system.catalogue import Entry
from edgeflex_services.policy_system.compare import changes
from edgeflex_services.policy_system.documents import KINDS
from edgeflex_services.policy_system.enforce import AnyRequest, policy_of, system_of
from edgeflex_services.policy_system.pages_common import (
    Visitor,
    html,
    policy_path,
    see_other,
)
from edgeflex_services.policy_system.pages_events import rows_of_policy
from edgeflex_services.policy_system.pages_words import changed_parts, changed_rules, fields_in_words
from edgeflex_services.policy_system.queries import Wanted, readers_now, refused_now
from edgeflex_services.policy_system.repository import (
    AuditEntry,
    ConflictError,
    Grant,
    OthersCameFirstError,
    Saved,
    about,
)
from edgeflex_services.policy_system.rights import what_it_does
from edgeflex_services.policy_system.system import PolicySystem

ON_A_PAGE = 100
LONGEST_COMMENT = 400
MOST_DONE = 10

SORTS: dict[str, Callable[[Entry], Any]] = {
    "id": lambda entry: (entry.saved.policy_id, entry.saved.group),
    "group": lambda entry: (entry.saved.group, entry.saved.policy_id),
    "kind": lambda entry: (entry.saved.document.kind, entry.saved.policy_id),
    "saved": lambda entry: -entry.saved.saved_ns,
}

Text = Annotated[str, Parameter(max_length=200)]
Page = Annotated[int, Parameter(ge=1, le=100_000)]


class PolicyPages(Controller):
    path = "/policies"
    include_in_schema = False

    @get("/", sync_to_thread=True)
    def several(
        self,
        request: AnyRequest,
        visitor: Visitor,
        q: Text = "",
        group: Text = "",
        kind: Text = "",
        show: Text = "in_force",
        sort: Text = "group",
        page: Page = 1,
    ) -> Response[str]:
        """The policies that the visitor may read."""
        system = system_of(request)
        readable = system.catalogue.readable(visitor.user)
        found = [entry for entry in readable if _is_wanted(entry, q.strip(), group, kind, show)]
        found.sort(key=SORTS.get(sort, SORTS["group"]))
        begin = (page - 1) * ON_A_PAGE
        return html(
            request,
            "policies.html",
            visitor,
            entries=found[begin : begin + ON_A_PAGE],
            total=len(found),
            known=len(readable),
            page=page,
            pages=max(-(-len(found) // ON_A_PAGE), 1),
            readers=readers_now(system.repository, system.catalogue.reads_waiting()),
            refused=refused_now(system.repository),
            groups=sorted({entry.saved.group for entry in readable}),
            kinds=list(KINDS),
            may_add=bool(groups_to_edit(system, visitor.user)),
            asked={"q": q, "group": group, "kind": kind, "show": show, "sort": sort},
        )

    @get("/{group:str}/{policy_id:str}", sync_to_thread=True)
    def one(self, request: AnyRequest, visitor: Visitor, group: str, policy_id: str, done: Text = "") -> Response[str]:
        entry = policy_of(request, visitor.user, group, policy_id)
        return _policy_page(request, visitor, entry, done=done)

    @get("/{group:str}/{policy_id:str}/versions/{version:int}", sync_to_thread=True)
    def old(self, request: AnyRequest, visitor: Visitor, group: str, policy_id: str, version: Version) -> Response[str]:
        """An old version."""
        system = system_of(request)
        entry = policy_of(request, visitor.user, group, policy_id)
        saved = system.repository.version(group, policy_id, version)
        return html(
            request,
            "version.html",
            visitor,
            saved=saved,
            newest=entry.saved,
            fields=fields_in_words(saved.document),
            may_edit=entry.may(visitor.user, "edit"),
        )

    @get("/{group:str}/{policy_id:str}/compare", sync_to_thread=True)
    def compare(
        self,
        request: AnyRequest,
        visitor: Visitor,
        group: str,
        policy_id: str,
        before: Version | None = None,
        after: Version | None = None,
    ) -> Response[str]:
        """What differs between two versions: those asked for, else the two newest."""
        system = system_of(request)
        policy_of(request, visitor.user, group, policy_id)
        versions = system.repository.versions(group, policy_id)
        newest = versions[0].version
        a = system.repository.version(group, policy_id, before or max(newest - 1, 1))
        b = system.repository.version(group, policy_id, after or newest)
        return html(request, "compare.html", visitor, versions=versions, a=a, b=b, difference=difference(a, b))

    @post("/{group:str}/{policy_id:str}/withdraw", status_code=303, sync_to_thread=True)
    def withdraw(self, request: AnyRequest, visitor: Visitor, form: Form, group: str, policy_id: str) -> Response[Any]:
        """Withdraw a policy: flows go on with their defaults."""
        return _save_again(request, visitor, form, group, policy_id, withdrawn=True)

    @post("/{group:str}/{policy_id:str}/restore", status_code=303, sync_to_thread=True)
    def restore(self, request: AnyRequest, visitor: Visitor, form: Form, group: str, policy_id: str) -> Response[Any]:
        """Save the document of an old version as a new version."""
        return _save_again(request, visitor, form, group, policy_id, withdrawn=False)

    @post("/{group:str}/{policy_id:str}/grants", status_code=303, sync_to_thread=True)
    def grant(self, request: AnyRequest, visitor: Visitor, form: Form, group: str, policy_id: str) -> Response[Any]:
        """Give a right to this policy, or take one back."""
        system = system_of(request)
        entry = policy_of(request, visitor.user, group, policy_id)
        if not visitor.user.may("manager", group):
            raise PermissionDeniedException("Only who manages the group may say who has a right to its policies.")
        wanted, problem = _wanted_grants(system, entry, form)
        if problem:
            return _policy_page(request, visitor, entry, grant_problem=problem, grant_typed=form)
        told = what_it_does(entry, wanted, system.accounts.users())
        everybody = bool(form.text("everybody"))
        try:
            system.repository.set_grants(
                visitor.user.name, group, policy_id, wanted, based_on=entry.grants, everybody=everybody, says=told
            )
        except OthersCameFirstError as error:
            now = policy_of(request, visitor.user, group, policy_id)
            return _policy_page(request, visitor, now, grant_problem=str(error), grant_typed=form)
        except ConflictError:
            return _policy_page(request, visitor, entry, open_problem=f"{told} Check the box to confirm that.")
        if system.catalogue.entry(visitor.user, group, policy_id) is None:
            text = f"{told} You are among those who no longer do."
            return html(request, "error.html", visitor, status=200, title="Rights are changed", text=text)
        return see_other(policy_path(group, policy_id), done="grants")


def _is_wanted(entry: Entry, text: str, group: str, kind: str, show: str) -> bool:
    saved = entry.saved
    if show != "all" and saved.withdrawn != (show == "withdrawn"):
        return False
    if (group and saved.group != group) or (kind and saved.document.kind != kind):
        return False
    return not text or _holds(saved, text)


def _holds(saved: Saved, text: str) -> bool:
    """Whether a policy holds a text: in its id, group, kind, asset, words, or names and values of its fields."""
    document, wanted = saved.document, text.casefold()
    texts = [saved.policy_id, saved.group, document.kind, document.kind.replace("_", " "), document.asset_id]
    texts += [document.about, *(each for field in fields_in_words(document) for each in field)]
    return any(wanted in each.casefold() for each in texts)


def groups_to_edit(system: PolicySystem, user: User) -> list[str]:
    """Groups in which a user may make policies."""
    return [each.name for each in system.accounts.groups() if user.may("editor", each.name)]


def difference(a: Saved, b: Saved) -> dict[str, Any]:
    """What differs between two versions, for `_difference.html`."""
    found = changes(a, b)
    return {
        "rules": changed_rules(a.document, b.document),
        "others": changed_parts(found),
        "all": found,
    }


def _policy_page(
    request: AnyRequest,
    visitor: Visitor,
    entry: Entry,
    *,
    done: str = "",
    grant_problem: str = "",
    open_problem: str = "",
    grant_typed: Form | None = None,
) -> Response[str]:
    system, saved, user = system_of(request), entry.saved, visitor.user
    place = (saved.group, saved.policy_id)
    done_with_it = system.repository.audit_entries(about("/".join(place)))
    return html(
        request,
        "policy.html",
        visitor,
        status=422 if grant_problem or open_problem else 200,
        entry=entry,
        saved=saved,
        fields=fields_in_words(saved.document),
        versions=system.repository.versions(*place),
        readers=system.catalogue.readers(*place),
        now={tuple(each) for each in readers_now(system.repository, system.catalogue.reads_waiting())[place]},
        effects=system.repository.effects(*place),
        done_by_rules=rows_of_policy(system, user, "/".join(place), MOST_DONE),
        events_asked=Wanted(policy="/".join(place)),
        audit=done_with_it,
        grants_say=next((_says(each) for each in done_with_it if each.action == "set_grants"), ""),
        may_edit=entry.may(user, "edit"),
        may_manage=user.may("manager", saved.group),
        done=done,
        grant_problem=grant_problem,
        open_problem=open_problem,
        grant_typed=grant_typed or Form(),
    )


def _save_again(
    request: AnyRequest, visitor: Visitor, form: Form, group: str, policy_id: str, *, withdrawn: bool
) -> Response[Any]:
    """Save a document that there is already, as it is, as a new version."""
    system = system_of(request)
    entry = policy_of(request, visitor.user, group, policy_id, "edit")
    based_on = form.number("based_on")
    source = entry.saved if withdrawn else system.repository.version(group, policy_id, form.number("version"))
    given = form.text("comment")[:LONGEST_COMMENT]
    comment = given if withdrawn or given else f"version {source.version} again"
    try:
        system.repository.save(
            visitor.user.name,
            group,
            policy_id,
            source.document,
            based_on=based_on,
            comment=comment,
            withdrawn=withdrawn,
        )
    except ConflictError as error:
        return html(
            request,
            "error.html",
            visitor,
            status=409,
            title="Somebody else was faster",
            text=f"Nothing was saved: {error}.",
        )
    return see_other(policy_path(group, policy_id), done="withdrawn" if withdrawn else "restored")


def _says(entry: AuditEntry) -> str:
    """What a change of grants did, as the audit log has it."""
    return str(msgspec.json.decode(entry.detail)["says"])


def _wanted_grants(system: PolicySystem, entry: Entry, form: Form) -> tuple[list[Grant], str]:
    """The grants after what a form says, and what is wrong with it."""
    remove = form.text("remove")
    if remove:
        return [each for each in entry.grants if f"{each.subject_kind}:{each.subject}:{each.right}" != remove], ""
    kind, subject, right = form.text("subject_kind"), form.text("subject"), form.text("right")
    if kind not in ("user", "group") or right not in ("read", "edit"):
        return [], "Choose whether a user or a group may read or edit."
    accounts = system.accounts
    known = [each.name for each in (accounts.users() if kind == "user" else accounts.groups())]
    if subject not in known:
        return [], f"There is no {kind} '{subject}'."
    kept = [each for each in entry.grants if (each.subject_kind, each.subject) != (kind, subject)]
    return [*kept, Grant("user" if kind == "user" else "group", subject, "read" if right == "read" else "edit")], ""
