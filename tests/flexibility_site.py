"""The local site with a policy system, for flows of flexibility."""

from __future__ import annotations

from pathlib import Path

from served_policies import AUDIENCE, GROUP, ServedPolicies
from shipped import LOCAL


def site_with_policies(folder: Path, served: ServedPolicies) -> Path:
    """The site file, in a folder, which asks the policy system every 200 ms."""
    key = served.make_service("flex_site")
    (folder / "site.pem").write_bytes(key.pem)
    auth = f"{{kind: jwt, key: {folder / 'site.pem'}, issuer: flex_site, audience: {AUDIENCE}}}"
    connection = (
        f"  policies: {{kind: policy_system, url: '{served.url}', auth: {auth}, group: {GROUP}, refresh: 200ms}}"
    )
    file = folder / "local.yaml"
    file.write_text(LOCAL.read_text().replace("connections:\n", f"connections:\n{connection}\n"))
    return file
