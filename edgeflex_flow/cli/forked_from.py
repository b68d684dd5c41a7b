"""Imported once, in the process that those of all flows are forked from: makes what they share."""

from __future__ import annotations

import gc
import os

from edgeflex_flow.cli.supervised import registry
from edgeflex_flow.kernel import warm_up
from edgeflex_flow.runtime import bytewax
from edgeflex_flow.supervisor.nursery import KERNELS

__all__ = ["bytewax"]

registry()
warm_up(os.environ.get(KERNELS, "").split())
gc.collect()
gc.freeze()  # what is shared stays shared: the collector would write into each object
