"""Where a message that a flow gave comes from."""
