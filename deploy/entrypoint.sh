#!/bin/sh
# numba reads its cache only where it may write: give it a copy of the kernels that the image was built with.
set -eu
built="$(dirname "$0")/kernels"
if [ -d "$built" ] && [ ! -e "$NUMBA_CACHE_DIR" ]; then
  cp -R -p "$built" "$NUMBA_CACHE_DIR"
fi
exec edgeflex "$@"
