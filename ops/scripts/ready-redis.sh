#!/bin/sh
# Readiness of a Redis server: it is what the Sentinels say that it is. A replica is linked to its primary and has its
# data, so that a rollout does not go on to the next pod while this one is still copying. Where no Sentinel answers, the
# server's own word counts: nothing is changed then anyway, and clients that are served should stay served.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

info=$(ask "$OWN" monitor INFO) || die "$SELF does not answer."
get() { echo "$info" | fact "$1"; }

[ "$(get loading)" = 0 ] || die "$SELF is loading its data."
if [ "$(get role)" = slave ]; then
    [ "$(get master_link_status)" = up ] || die "$SELF has no link to its primary."
    [ "$(get master_sync_in_progress)" = 0 ] || die "$SELF is copying its primary's data."
fi
reported=$(reported_by_sentinels) || exit 0
primary=${reported##* }
case $(get role)$([ "$primary" = "$SELF" ] && echo " named") in
"master named") ;;
slave)
    [ "$(get master_host):$(get master_port)" = "$primary" ] || die "$SELF follows another server than $primary."
    ;;
*) die "$SELF is a $(get role), and the primary is $primary for the Sentinels." ;;
esac
