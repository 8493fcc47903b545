#!/bin/sh
# After the Secret has changed: makes a running server or Sentinel use it. `passwords.sh redis` or `passwords.sh
# sentinel`, in every pod; in the order of docs/runbook.md nothing is refused meanwhile.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

# give SECRET USER COMMAND…: the command with a password as its last argument, which goes through a pipe
give() {
    word=$(secret "$1") && user=$2
    shift 2
    printf %s "$word" | ask "$OWN" "$user" -x "$@" >/dev/null
}

case ${1:-} in
redis)
    "$here/users.sh"
    ask "$OWN" operator ACL LOAD >/dev/null || die "$SELF does not load its users anew."
    give replication operator CONFIG SET masterauth || die "$SELF keeps its old masterauth."
    ;;
sentinel)
    own=$(digests sentinels)
    # shellcheck disable=SC2086  # a list of rules
    ask "$OWN" sentinels ACL SETUSER default resetpass $own >/dev/null || die "$SELF keeps its old password."
    give sentinel sentinels SENTINEL SET "$SERVICE" auth-pass || die "$SELF keeps its old auth-pass."
    give sentinels sentinels SENTINEL CONFIG SET sentinel-pass || die "$SELF keeps its old sentinel-pass."
    ;;
*) die "passwords.sh redis, or passwords.sh sentinel" ;;
esac
