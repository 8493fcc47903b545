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

# How many replicas there are that have its data; of a replica, whether it follows its primary.
online() { ask "$OWN" operator INFO replication | grep -cE 'state=online|^master_link_status:up' || :; }

# known WHAT: what this Sentinel watches, MASTER, REPLICAS or SENTINELS, as HOST:PORT
known() {
    ask "$OWN" sentinels SENTINEL "$1" "$SERVICE" |
        awk '$0 == "ip" { getline host } $0 == "port" { getline; print host ":" $0 }'
}

# refused HOST:PORT WHAT: after an `ask` that failed. One that is away reads both passwords when it starts.
refused() {
    case $refusal in
    "" | *"Could not connect"*) say "$1 does not answer. Run this again when it does." ;;
    *) die "$*" ;;
    esac
}

case ${1:-} in
redis)
    "$here/users.sh"
    # It ends connections, on Redis 7.0 those of all users, the replicas' too: until they are back the primary would
    # refuse writes for want of them. It takes some meanwhile that only it has, for a second or two. A replica has to be
    # back before the next one loads its users, or the primary would have none.
    before=$(online)
    least=$(ask "$OWN" operator CONFIG GET min-replicas-to-write | sed -n 2p)
    if [ "$before" -gt 0 ] && [ "${least:-0}" != 0 ]; then
        trap 'ask "$OWN" operator CONFIG SET min-replicas-to-write "$least" >/dev/null || :' EXIT
        ask "$OWN" operator CONFIG SET min-replicas-to-write 0 >/dev/null || die "$SELF keeps min-replicas-to-write."
    fi
    ask "$OWN" operator ACL LOAD >/dev/null || die "$SELF does not load its users anew."
    give replication operator CONFIG SET masterauth || die "$SELF keeps its old masterauth."
    deadline=$(($(date +%s) + WAIT))
    while sleep 1 && [ "$(online)" -lt "$before" ]; do
        [ "$(date +%s)" -lt "$deadline" ] || die "Not all of $before links of $SELF's replication are back after $WAIT seconds."
    done
    ;;
sentinel)
    own=$(digests sentinels)
    # shellcheck disable=SC2086  # a list of rules
    ask "$OWN" sentinels ACL SETUSER default resetpass $own >/dev/null || die "$SELF keeps its old password."
    # What it shows has to be accepted first: a Sentinel keeps a link whose password was refused, and sees nobody there.
    for other in $(known SENTINELS); do
        # shellcheck disable=SC2086  # a list of rules
        ask "$other" sentinels ACL SETUSER default resetpass $own >/dev/null || refused "$other" "keeps its old password."
    done
    for server in $(known MASTER) $(known REPLICAS); do
        where=$server user=sentinel
        ask_by sentinel PING >/dev/null || refused "$server" "does not accept what $SELF would show: passwords.sh redis there first."
    done
    give sentinel sentinels SENTINEL SET "$SERVICE" auth-pass || die "$SELF keeps its old auth-pass."
    give sentinels sentinels SENTINEL CONFIG SET sentinel-pass || die "$SELF keeps its old sentinel-pass."
    ;;
*) die "passwords.sh redis, or passwords.sh sentinel" ;;
esac
