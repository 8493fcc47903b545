#!/bin/sh
# Before a Redis server is stopped: if it is the primary, a replica takes over first, and nothing that was acknowledged
# is lost. Writes are paused, so that the replicas catch up: a failover alone lost 174 and 386 acknowledged writes where
# this lost none. The pause stays until the server ends: what waits in it would be written to a server that nobody
# copies any more. Only if nobody takes over it is lifted.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

role() { ask "$1" monitor INFO replication | fact role; }

# A role that is not reported is none: a primary that is asked in vain (it is busy, a password is wrong) has to hand over too.
deadline=$(($(date +%s) + WAIT))
said=
until own=$(role "$OWN") && [ "$own" ]; do
    [ "$(date +%s)" -lt "$deadline" ] || die "$SELF has not reported its role within $WAIT seconds: it stops without a failover."
    [ "$said" ] || say "$SELF does not report its role. It is asked again."
    said=1
    sleep 1
done
[ "$own" = master ] || exit 0
reported=$(reported_by_sentinels) || die "No quorum of Sentinels: $SELF stops without a failover."
[ "${reported##* }" = "$SELF" ] || exit 0
again=0 unanswered=
ask "$OWN" operator CLIENT PAUSE "$((WAIT * 1000))" WRITE >/dev/null || die "$SELF does not let writes be paused."
trap 'ask "$OWN" operator CLIENT UNPAUSE >/dev/null || :' EXIT
while now=$(date +%s) && [ "$now" -lt "$deadline" ]; do
    if reported=$(reported_by_sentinels) && [ "${reported##* }" != "$SELF" ] && [ "$(role "${reported##* }")" = master ]; then
        say "${reported##* } has taken over from $SELF."
        trap - EXIT
        exit 0
    fi
    if [ "$now" -ge "$again" ]; then
        again=$((now + 10))
        for sentinel in $SENTINELS; do
            case " $unanswered " in *" $sentinel "*) continue ;; esac
            ask "$sentinel" sentinels SENTINEL FAILOVER "$SERVICE" >/dev/null && break
            # It may see no replica that is fit: then another is asked. But two failovers at once promote two replicas: none
            # is begun beside one that is under way, or may be.
            case $refusal in
            *INPROG*) break ;;
            "") unanswered="$unanswered $sentinel" && break ;;
            esac
        done
    fi
    sleep 1
done
die "No replica has taken over from $SELF within $WAIT seconds."
