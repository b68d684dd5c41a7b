"""Pages of the audit log with its proof, and of the keys by which tokens are signed."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Response, get, post
from litestar.params import Parameter

from edgeflex_flow.web_pages import Form
from edgeflex_services.policy_system.enforce import AnyRequest, system_of
from edgeflex_services.policy_system.pages_accounts import admin_only
from edgeflex_services.policy_system.pages_common import Visitor, html, see_other
from edgeflex_services.policy_system.proof import Head, Proof
from edgeflex_services.policy_system.queries import signing_keys_known
from edgeflex_services.policy_system.repository import Repository, about

ON_A_PAGE = 100


class LogPages(Controller):
    path = "/"
    include_in_schema = False

    @get("/audit", sync_to_thread=True)
    def audit(
        self,
        request: AnyRequest,
        visitor: Visitor,
        before: Annotated[int | None, Parameter(ge=1, le=2**62)] = None,
        what: Annotated[str, Parameter(max_length=140)] = "",
        proof: bool = False,
        head: Annotated[str, Parameter(max_length=100)] = "",
    ) -> Response[str]:
        """What was done, the newest first; with `proof`, whether it is as it was written, back to a noted head."""
        admin_only(visitor)
        repository = system_of(request).repository
        found, error = _proved(repository, head.strip()) if proof else (None, "")
        wanted = [about(what.strip())] if what.strip() else []
        entries = repository.audit_entries(*wanted, before=before, limit=ON_A_PAGE + 1)
        return html(
            request,
            "audit.html",
            visitor,
            entries=entries[:ON_A_PAGE],
            older=entries[ON_A_PAGE - 1].id if len(entries) > ON_A_PAGE else None,
            what=what.strip(),
            proof=found,
            head=head.strip(),
            head_error=error,
            newest=repository.newest_change(),
        )

    @get("/keys", sync_to_thread=True)
    def keys(self, request: AnyRequest, visitor: Visitor, done: str = "") -> Response[str]:
        """The keys by which tokens are signed."""
        admin_only(visitor)
        return html(request, "keys.html", visitor, keys=signing_keys_known(system_of(request).repository), done=done)

    @post("/keys", status_code=303, sync_to_thread=True)
    def rotate(self, request: AnyRequest, visitor: Visitor, form: Form) -> Response[Any]:
        """Sign with a new key from now on."""
        del form
        actor, system = admin_only(visitor), system_of(request)
        system.tokens.rotate(actor.name)
        return see_other("/keys", done="rotated")


def _proved(repository: Repository, head: str) -> tuple[Proof | None, str]:
    """The proof of the log, or what is wrong with the head that was typed."""
    try:
        return repository.prove(Head.read(head) if head else None), ""
    except ValueError as error:
        return None, str(error)
