#!/bin/sh
# Readiness of a Sentinel: it reaches enough of the others for a failover. One that has lost them still answers clients,
# with what it last knew.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

ask "$OWN" sentinels SENTINEL CKQUORUM "$SERVICE" >/dev/null || die "$SELF does not reach a quorum of Sentinels."
