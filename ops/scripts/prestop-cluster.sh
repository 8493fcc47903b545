#!/bin/sh
# Before a server of a Redis Cluster is stopped: if it is a primary, its replica takes over first. CLUSTER FAILOVER holds
# what is written until the replica has all of it, so nothing that was acknowledged is lost; an election after the stop
# would leave the slots without a primary for five seconds, and lose what had not been copied yet.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

deadline=$(($(date +%s) + WAIT))
why="It does not report its role"
again=0
while :; do
    info=$(ask "$OWN" monitor INFO replication) || info=
    case $(echo "$info" | fact role) in
    slave) exit 0 ;;
    master)
        why="It is a primary, and has no replica that has its data"
        replica=$(echo "$info" | sed -n 's/^slave[0-9]*:ip=\([^,]*\),port=\([0-9]*\),state=online,.*/\1:\2/p' | head -n 1)
        # A failover that is under way is not begun anew: it has five seconds.
        if [ "$replica" ] && [ "$(date +%s)" -ge "$again" ]; then
            why="$replica has not taken over"
            ask "$replica" operator CLUSTER FAILOVER >/dev/null && again=$(($(date +%s) + 6))
        fi
        ;;
    esac
    [ "$(date +%s)" -lt "$deadline" ] || die "$SELF stops without a failover. $why, within $WAIT seconds."
    sleep 1
done
