"""One process per flow of a site: start, watch, redeploy what changed, roll back."""
