"""What a running site tells programs that watch it: metrics, and whether it is well."""
