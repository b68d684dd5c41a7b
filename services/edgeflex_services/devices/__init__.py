"""5G device management: field devices, their links and their groups on a mobile network, for authorised users."""

import logging

LOG = logging.getLogger("edgeflex.devices")
