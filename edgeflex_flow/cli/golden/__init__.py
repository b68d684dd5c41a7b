"""Golden tests: what a flow must make of a recording, as files beside flow files, which `edgeflex test` runs."""
