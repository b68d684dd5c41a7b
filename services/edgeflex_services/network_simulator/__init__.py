"""A mobile network that is not there: it answers as the APIs of CAMARA and of 3GPP's Network Exposure Function do.

`world` holds devices and their links, `sessions`, `groups` and `watches` what the network gives, all without HTTP; the
`camara_…` and `nef_…` modules say it in the words of the standards, `notify` tells it to who asked for it, and
`control_api` lets tests and people make coverage end, sessions break and notifications get lost.
"""

import logging

LOG = logging.getLogger("edgeflex.network")
