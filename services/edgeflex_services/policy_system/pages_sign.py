"""Signing in to the pages and out, and one's own account."""

from __future__ import annotations

from typing import Any

import msgspec
from anyio.to_thread import run_sync
from litestar import Controller, Response, get, post

from edgeflex_flow.passwords import SHORTEST_PASSWORD
from edgeflex_flow.web_pages import Form, cookie_name, read_form, safe_path, session_cookie
from edgeflex_services.policy_system.accounts import NewUser, User
from edgeflex_services.policy_system.enforce import (
    AnyRequest,
    TooManyAttempts,
    check_password,
    system_of,
)
from edgeflex_services.policy_system.pages_common import (
    COOKIE,
    Visitor,
    html,
    see_other,
    visitor_of,
)

KEPT = "kept."
WRONG = "Name and password do not go together."


class SignInPages(Controller):
    path = "/"
    include_in_schema = False

    @get("/", sync_to_thread=False)
    def start(self) -> Response[None]:
        return see_other("/policies")

    @get("/sign-in", sync_to_thread=True)
    def form(self, request: AnyRequest, then: str = "/") -> Response[Any]:
        if visitor_of(request) is not None:
            return see_other(safe_path(then))
        return html(request, "sign_in.html", None, then=safe_path(then), name="", problem="", kept=[])

    @post("/sign-in", status_code=200)
    async def sign_in(self, request: AnyRequest) -> Response[Any]:
        """Begin a new session, whatever the browser showed before."""
        form = await read_form(request)
        name, then = form.text("name"), safe_path(form.text("then"))
        # A password may begin or end with a space.
        password = form.get("password", [""])[-1]
        kept = [(field, value) for field, values in form.items() if field.startswith(KEPT) for value in values]
        kept = [(field.removeprefix(KEPT), value) for field, value in kept]
        try:
            is_right = await check_password(request, name, password)
            problem, status, headers = WRONG, 401, {}
        except TooManyAttempts as error:
            is_right, status, headers = False, 429, dict(error.headers or {})
            problem = f"Too many attempts. Try again in {headers.get('Retry-After', '60')} s."
        if not is_right:
            answer = html(
                request, "sign_in.html", None, status=status, then=then, name=name, problem=problem, kept=kept
            )
            answer.headers.update(headers)
            return answer
        old = request.cookies.get(cookie_name(request, COOKIE))
        return await run_sync(_begin, request, name, then, kept, old)

    @post("/sign-out", status_code=303, sync_to_thread=True)
    def sign_out(self, request: AnyRequest, form: Form) -> Response[None]:
        del form  # that it came is what counts
        system_of(request).accounts.end_session(request.cookies.get(cookie_name(request, COOKIE), ""))
        answer = see_other("/sign-in")
        answer.set_cookie(session_cookie(request, COOKIE, None))
        # Nothing of what was seen comes back with the browser's back button.
        answer.headers["Clear-Site-Data"] = '"cache"'
        return answer

    @get("/account", sync_to_thread=False)
    def account(self, request: AnyRequest, visitor: Visitor, done: str = "") -> Response[str]:
        return html(request, "account.html", visitor, errors={}, done=done)

    @post("/account/password", status_code=200)
    async def change_password(self, request: AnyRequest, visitor: Visitor, form: Form) -> Response[Any]:
        """Change one's own password. All one's other sessions end."""
        now, wanted, again = (form.get(name, [""])[-1] for name in ("now", "wanted", "again"))
        errors: dict[str, str] = {}
        if len(wanted) < SHORTEST_PASSWORD:
            errors["wanted"] = f"at least {SHORTEST_PASSWORD} characters; got {len(wanted)}"
        elif wanted != again:
            errors["again"] = "not the same as the new password"
        if not errors and not await check_password(request, visitor.user.name, now):
            errors["now"] = "this is not your password"
        if errors:
            return html(request, "account.html", visitor, status=422, errors=errors, done="")
        return await run_sync(_change_password, request, visitor.user, wanted)


def _begin(request: AnyRequest, name: str, then: str, kept: list[tuple[str, str]], old: str | None) -> Response[Any]:
    accounts = system_of(request).accounts
    if old:
        accounts.end_session(old)
    shown, session = accounts.begin_session(name)
    answer: Response[Any]
    if kept:
        user = system_of(request).tokens.user(name)
        assert user is not None, "its password was right a moment ago"
        answer = html(request, "continue.html", Visitor(user, session), then=then, kept=kept)
    else:
        answer = see_other(then)
    answer.set_cookie(session_cookie(request, COOKIE, shown))
    return answer


def _change_password(request: AnyRequest, user: User, password: str) -> Response[None]:
    system = system_of(request)
    wanted = msgspec.convert({"password": password}, NewUser)
    system.accounts.put_user(user.name, user.name, wanted)
    shown, _ = system.accounts.begin_session(user.name)
    answer = see_other("/account", done="password")
    answer.set_cookie(session_cookie(request, COOKIE, shown))
    return answer
