"""An edited flow beside the one that runs."""
