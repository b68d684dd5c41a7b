"""Measurements of edgeflex-flow beside their physical floor and beside code written by hand."""
