"""Flow files: parse, interpolate, check, JSON Schema, graph."""
