#!/bin/sh
# What a container runs: `serve.sh redis` or `serve.sh sentinel`, and options for the server. It writes the configuration
# anew each time, and then becomes the server. A container restarts without its init containers: an old primary would be
# back as a second one, and with the passwords of before.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

kind=$1
shift
init=
# The first process of a container is ended by no signal that it does not ask for.
trap 'kill "$init"; exit 143' TERM
"$here/init-$kind.sh" &
init=$!
wait "$init"
trap - TERM
[ "$kind" = redis ] || set -- --sentinel "$@"
exec "$(command -v valkey-server || command -v redis-server || echo valkey-server)" "$DATA/$kind.conf" "$@"
