"""Programs that stand beside a flow."""
