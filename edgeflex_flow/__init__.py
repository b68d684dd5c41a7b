"""edgeflex-flow: dataflows for power-grid control, from declarative flow files."""

__version__ = "0.1.0"
