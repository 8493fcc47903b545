#!/bin/sh
# Before a Sentinel starts: writes $DATA/sentinel.conf. What the Sentinel wrote there before it ended (its id, the
# primary, the epochs, whom it knows) is kept; everything else comes from $CONFIG and the passwords anew.
# FIRST is the server that is the primary at the very first start, as in redis-0.redis:6379. The rest: lib.sh.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

umask 077
learnt='^sentinel (myid|monitor|config-epoch|leader-epoch|current-epoch|known-replica|known-sentinel) '
if [ -e "$DATA/sentinel.conf" ]; then
    grep -E "$learnt" "$DATA/sentinel.conf" >"$DATA/learnt" || :
else
    : >"$DATA/learnt"
fi
grep -q '^sentinel monitor ' "$DATA/learnt" || echo "sentinel monitor $SERVICE ${FIRST%:*} ${FIRST##*:} $QUORUM" >>"$DATA/learnt"
own=$(digests sentinels)
peers=$(secret sentinels)
login=$(secret sentinel)
{
    # The shipped lines up to `monitor`, then what was learnt in its place, then the others.
    sed '/^sentinel monitor/,$d' "$CONFIG/sentinel.conf"
    grep '^sentinel myid' "$DATA/learnt" || :
    grep '^sentinel monitor' "$DATA/learnt"
    sed '1,/^sentinel monitor/d' "$CONFIG/sentinel.conf"
    grep -vE '^sentinel (myid|monitor)' "$DATA/learnt" || :
    tls_lines "${SELF##*:}"
    printf '%s\n' "dir \"$DATA\"" "user default on ${own}~* &* +@all" "sentinel sentinel-pass \"$peers\"" \
        "sentinel auth-user $SERVICE sentinel" "sentinel auth-pass $SERVICE \"$login\"" \
        "sentinel announce-ip ${SELF%:*}" "sentinel announce-port ${SELF##*:}"
} >"$DATA/sentinel.conf.new"
rm "$DATA/learnt"
mv "$DATA/sentinel.conf.new" "$DATA/sentinel.conf"
