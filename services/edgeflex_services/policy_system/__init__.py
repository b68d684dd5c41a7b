"""The policy system: who may do what with which asset and data, and what running flows are to keep to.

Its parts, as policy-based management names them: the repository (`repository`), the access point (`api`), the decision
point (`decide`), the enforcement point (`enforce`), and the event service (`events`).
"""

from __future__ import annotations

import logging

LOG = logging.getLogger("edgeflex.policy")
