"""Connectors: sources, sinks, stores and buses, one node kind per file, and pure codecs."""
