#!/bin/sh
# Liveness: whether this process answers at all, `live.sh monitor` for a server and `live.sh sentinels` for a Sentinel.
# Any answer counts, also that it is loading its data or has no primary: a restart would not help, and would make it
# begin again. So does a refused password: restarting every server at once because of a Secret is an outage.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

ask "$OWN" "$1" PING >/dev/null && exit
# A refusal and silence both fail. What distinguishes them is what the server says to somebody without a password.
where=$OWN
# shellcheck disable=SC2086  # a list of words
reply=$(timeout 3 env -u REDISCLI_AUTH "$CLI" -h "${where%:*}" -p "${where##*:}" \
    ${TLS:+--tls --cacert "$TLS/ca.crt" --cert "$TLS/tls.crt" --key "$TLS/tls.key"} PING 2>/dev/null) || exit 1
case $reply in
PONG | NOAUTH* | LOADING* | MASTERDOWN* | BUSY* | MISCONF*) exit 0 ;;
esac
die "$SELF does not answer."
