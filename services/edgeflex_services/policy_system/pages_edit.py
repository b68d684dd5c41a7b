"""Pages on which policies are made and changed: the form, the differences before saving, and a conflict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from litestar import Controller, Response, get, post
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.params import Parameter

from edgeflex_flow.web import DEEPEST_BODY, json_is_too_deep
from edgeflex_flow.web_pages import Form
from edgeflex_services.policy_system.documents import (
    KINDS,
    AnyDocument,
    DocumentError,
    Name,
    read_document,
    schema_of,
)
from edgeflex_services.policy_system.enforce import AnyRequest, policy_of, system_of
from edgeflex_services.policy_system.pages_common import Visitor, html, policy_path, see_other
from edgeflex_services.policy_system.pages_form import (
    FormSchema,
    Raw,
    added,
    is_rows,
    moved_up,
    removed,
)
from edgeflex_services.policy_system.pages_policies import LONGEST_COMMENT, difference, groups_to_edit
from edgeflex_services.policy_system.pages_templates import document_to_begin_with
from edgeflex_services.policy_system.repository import ConflictError, Saved

OWN = ("csrf", "do", "mode", "json", "comment", "based_on", "group", "policy_id")
"""Fields of a form that are no part of the document."""
AS_FORM, AS_JSON = "form", "json"
NOT_YET = "It can be shown {} once these errors are mended."

FORMS: Mapping[str, FormSchema] = {kind: FormSchema(schema_of(kind)) for kind in KINDS}


class Typed(NamedTuple):
    """What was typed, and what can be made of it."""

    kind: str
    mode: str
    raw: Raw
    json: str
    comment: str = ""
    based_on: int = 0
    group: str = ""
    policy_id: str = ""
    errors: tuple[tuple[str, str], ...] = ()
    """Fields and what is wrong there; the empty field is the form as a whole."""
    notice: str = ""
    focus: str = ""
    """The field that was added, to go on with."""


def typed_of(kind: str, document: Mapping[str, Any], **more: Any) -> Typed:
    """A form that shows a document."""
    return Typed(kind, AS_FORM, FORMS[kind].texts(document), _pretty(document), **more)


def _typed_in(form: Form, kind: str) -> Typed:
    return Typed(
        kind,
        AS_JSON if form.text("mode") == AS_JSON else AS_FORM,
        {name: values for name, values in form.items() if name not in OWN},
        form.get("json", [""])[-1],
        comment=form.text("comment"),
        based_on=form.number("based_on"),
        group=form.text("group"),
        policy_id=form.text("policy_id"),
    )


class EditPages(Controller):
    path = "/policies"
    include_in_schema = False

    @get("/new", sync_to_thread=True)
    def choose(
        self,
        request: AnyRequest,
        visitor: Visitor,
        kind: Annotated[str, Parameter(max_length=40)] = "",
        group: Annotated[str, Parameter(max_length=64)] = "",
    ) -> Response[str]:
        """A new policy: which kind, then its form."""
        groups = _groups(request, visitor)
        wanted = group if group in groups else ""
        if kind not in KINDS:
            kinds = [(name, each.__doc__ or "") for name, each in KINDS.items()]
            return html(request, "new.html", visitor, kinds=kinds, group=wanted)
        return _edit_page(request, visitor, typed_of(kind, document_to_begin_with(kind), group=wanted or groups[0]))

    @post("/new", status_code=200, sync_to_thread=True)
    def make(self, request: AnyRequest, visitor: Visitor, form: Form, kind: str) -> Response[Any]:
        if kind not in KINDS:
            raise HTTPException("There is no such kind of policy.", status_code=404)
        groups = _groups(request, visitor)
        typed = _typed_in(form, kind)
        return _go_on(request, visitor, form, typed, None, _place_problems(request, typed, groups))

    @get("/{group:str}/{policy_id:str}/edit", sync_to_thread=True)
    def edit(self, request: AnyRequest, visitor: Visitor, group: str, policy_id: str) -> Response[str]:
        saved = policy_of(request, visitor.user, group, policy_id, "edit").saved
        document = msgspec.to_builtins(saved.document)
        typed = typed_of(saved.document.kind, document, based_on=saved.version, group=group, policy_id=policy_id)
        return _edit_page(request, visitor, typed, saved)

    @post("/{group:str}/{policy_id:str}/edit", status_code=200, sync_to_thread=True)
    def change(self, request: AnyRequest, visitor: Visitor, form: Form, group: str, policy_id: str) -> Response[Any]:
        entry = policy_of(request, visitor.user, group, policy_id, "edit")
        typed = _typed_in(form, entry.saved.document.kind)._replace(group=group, policy_id=policy_id)
        base = entry.saved
        if typed.based_on != base.version:
            base = system_of(request).repository.version(group, policy_id, typed.based_on)
        return _go_on(request, visitor, form, typed, base, ())


def _groups(request: AnyRequest, visitor: Visitor) -> list[str]:
    groups = groups_to_edit(system_of(request), visitor.user)
    if not groups:
        text = "There is no group in which you may make policies: the role 'editor' is needed. See Groups."
        if visitor.user.is_admin:
            text = "There is no group yet, and each policy belongs to one: add one at Groups."
        raise PermissionDeniedException(text)
    return groups


def _place_problems(request: AnyRequest, typed: Typed, groups: list[str]) -> tuple[tuple[str, str], ...]:
    """What is wrong with where a new policy is to be."""
    if typed.group not in groups:
        problem = ("group", f"choose a group in which you may make policies; known: {', '.join(groups)}")
        return (problem, *_id_problems(typed))
    if not (problems := _id_problems(typed)) and not system_of(request).catalogue.is_new(typed.group, typed.policy_id):
        return (("policy_id", f"'{typed.policy_id}' is taken in this group"),)
    return problems


def _id_problems(typed: Typed) -> tuple[tuple[str, str], ...]:
    try:
        msgspec.convert(typed.policy_id, Name)
    except msgspec.ValidationError:
        got = f"; got '{typed.policy_id}'" if typed.policy_id else ""
        return (("policy_id", f"begins with a letter or digit, then letters, digits, _ . - (64 at most){got}"),)
    return ()


# What a button of the form does ------------------------------------------------------------------------------------


def _go_on(
    request: AnyRequest,
    visitor: Visitor,
    form: Form,
    typed: Typed,
    base: Saved | None,
    place_problems: tuple[tuple[str, str], ...],
) -> Response[Any]:
    wish, _, name = form.text("do").partition(":")
    if wish in ("add", "remove", "up"):
        return _edit_page(request, visitor, _rearranged(typed, wish, name), base)
    if wish in ("as_json", "as_form", "edit"):
        return _edit_page(request, visitor, _other_mode(typed, wish), base)
    document, errors = _document_of(typed)
    errors = (*place_problems, *errors)
    if len(typed.comment) > LONGEST_COMMENT:
        errors = (*errors, ("comment", f"at most {LONGEST_COMMENT} characters; got {len(typed.comment)}"))
    if document is None or errors:
        return _edit_page(request, visitor, typed._replace(errors=errors), base, status=422)
    mine = _proposed(visitor, typed, document)
    if base is not None:
        newest = system_of(request).repository.versions(typed.group, typed.policy_id)[0]
        if newest.version != base.version:
            return _conflict_page(request, visitor, typed, base, newest, mine)
    if wish != "save":
        return _preview_page(request, visitor, typed, base, mine)
    return _save(request, visitor, typed, base, mine)


def _save(request: AnyRequest, visitor: Visitor, typed: Typed, base: Saved | None, mine: Saved) -> Response[Any]:
    system = system_of(request)
    try:
        saved = system.repository.save(
            visitor.user.name,
            typed.group,
            typed.policy_id,
            mine.document,
            based_on=typed.based_on,
            comment=typed.comment,
        )
    except ConflictError:
        if base is None:
            errors = (("policy_id", f"'{typed.policy_id}' is taken in this group"),)
            return _edit_page(request, visitor, typed._replace(errors=errors), None, status=409)
        newest = system.repository.versions(typed.group, typed.policy_id)[0]
        return _conflict_page(request, visitor, typed, base, newest, mine)
    return see_other(policy_path(saved.group, saved.policy_id), done="saved")


def _rearranged(typed: Typed, wish: str, name: str) -> Typed:
    """The form with a row more, a row less, or one moved. Nothing of it is checked."""
    if wish == "remove":
        return typed._replace(raw=removed(typed.raw, name), focus=f"add:{name.rpartition('.')[0]}")
    if wish == "up":
        return typed._replace(raw=moved_up(typed.raw, name), focus=f"{name}.name")
    rows = is_rows(FORMS[typed.kind].nodes(typed.raw, {}), name)
    if rows is None:
        return typed
    raw = added(typed.raw, name, is_rows=rows)
    new = next(iter(raw.keys() - typed.raw.keys())).rpartition(".")[0]
    return typed._replace(raw=raw, focus=new)


def _other_mode(typed: Typed, wish: str) -> Typed:
    """The same as JSON, or as a form. What cannot be shown the other way stays as it is, with what is wrong."""
    if wish == "as_json" and typed.mode == AS_FORM:
        reading = FORMS[typed.kind].read(typed.raw)
        if reading.problems:
            return typed._replace(
                errors=tuple(reading.problems), notice="It can be shown as JSON without these errors."
            )
        return typed._replace(mode=AS_JSON, json=_pretty(reading.document))
    if wish == "as_form" and typed.mode == AS_JSON:
        document, errors = _document_of(typed)
        if document is None:
            return typed._replace(errors=errors, notice=NOT_YET.format("as a form"))
        return typed._replace(mode=AS_FORM, raw=FORMS[typed.kind].texts(msgspec.to_builtins(document)))
    return typed


def _document_of(typed: Typed) -> tuple[AnyDocument | None, tuple[tuple[str, str], ...]]:
    """The document that was typed, and what is wrong by field."""
    if typed.mode == AS_JSON:
        return _document_of_json(typed)
    reading = FORMS[typed.kind].read(typed.raw)
    problems = list(reading.problems)
    try:
        document = read_document(reading.document)
    except DocumentError as error:
        # What is wrong with a field is told in the words of the form, if it knows.
        known = {field for field, _ in problems}
        found = [(reading.field_of(place), text) for place, text in error.problems]
        problems += [(field, text) for field, text in found if field not in known]
        return None, tuple(problems)
    return (None if problems else document), tuple(problems)


def _document_of_json(typed: Typed) -> tuple[AnyDocument | None, tuple[tuple[str, str], ...]]:
    text = typed.json.encode()
    if json_is_too_deep(text):
        return None, (("json", f"nested deeper than {DEEPEST_BODY} levels"),)
    try:
        json.loads(typed.json)
    except json.JSONDecodeError as error:
        return None, (("json", f"line {error.lineno}, column {error.colno}: {error.msg}"),)
    try:
        document = read_document(text)
    except DocumentError as error:
        return None, tuple(("json", f"{place}: {told}" if place else told) for place, told in error.problems)
    if document.kind != typed.kind:
        return None, (("json", f"kind: it stays '{typed.kind}'; got '{document.kind}'"),)
    return document, ()


def _proposed(visitor: Visitor, typed: Typed, document: AnyDocument) -> Saved:
    return Saved(typed.group, typed.policy_id, typed.based_on + 1, document, False, visitor.user.name, 0, typed.comment)


def _pretty(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


# Pages --------------------------------------------------------------------------------------------------------------


def _edit_page(
    request: AnyRequest, visitor: Visitor, typed: Typed, base: Saved | None = None, *, status: int = 200
) -> Response[Any]:
    errors: dict[str, str] = {}
    for field, text in typed.errors:
        errors[field] = f"{errors[field]}; {text}" if field in errors else text
    nodes = FORMS[typed.kind].nodes(typed.raw, errors)
    names = ((field, typed.raw.get(f"{field.removesuffix('.value')}.name")) for field in errors)
    return html(
        request,
        "edit.html",
        visitor,
        status=status,
        typed=typed,
        base=base,
        nodes=nodes,
        errors=errors,
        labels={field: f"Value of field {name[-1]}" for field, name in names if name and field.endswith(".value")},
        groups=groups_to_edit(system_of(request), visitor.user) if base is None else [],
    )


def _preview_page(
    request: AnyRequest, visitor: Visitor, typed: Typed, base: Saved | None, mine: Saved
) -> Response[Any]:
    return html(
        request,
        "preview.html",
        visitor,
        typed=typed,
        base=base,
        mine=mine,
        difference=None if base is None else difference(base, mine),
    )


def _conflict_page(
    request: AnyRequest, visitor: Visitor, typed: Typed, base: Saved, newest: Saved, mine: Saved
) -> Response[Any]:
    return html(
        request,
        "conflict.html",
        visitor,
        status=409,
        typed=typed._replace(based_on=newest.version),
        base=base,
        newest=newest,
        mine=mine,
        theirs=difference(base, newest),
        yours=difference(base, mine),
        between=difference(newest, mine),
    )
