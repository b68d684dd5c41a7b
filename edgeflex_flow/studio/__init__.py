"""The live page of a site, in a process of its own, and its operators' rights."""

import logging

LOG = logging.getLogger("edgeflex.studio")
