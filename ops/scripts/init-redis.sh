#!/bin/sh
# Before a Redis server starts: writes $DATA/redis.conf, with what the Sentinels say about whose replica it is.
#
# The Sentinels are the one source: they keep on their volumes who the primary is, and at the very first start they know
# from sentinel.conf. So this waits for two of the three. Sentinels start without any Redis, so nobody waits in a circle.
# PROFILE=durable adds durable.conf, cluster cluster.conf. PRIMARY, if set, is whose replica it is to be, and nobody is
# asked: for a laptop, where one program starts all of them. The rest: lib.sh.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

deadline=$(($(date +%s) + WAIT))
primary=${PRIMARY:-}
why="Fewer than $QUORUM of the Sentinels $SENTINELS answer"
while [ -z "$primary" ]; do
    if reported=$(reported_by_sentinels); then
        # shellcheck disable=SC2086  # four words
        set -- $reported
        if [ "$4" != "$SELF" ]; then
            primary=$4
            break
        elif [ "$3" = 1 ]; then
            why="The Sentinels still name $SELF, and are about to promote another server"
        elif [ ! -e "$DATA/initialized" ] && [ "$2" != 0 ]; then
            # The replicas hold the data, and would have to drop it. One of them is to be promoted first.
            why="The volume of $SELF is new, it is the primary for the Sentinels, and they know $2 replicas"
        else
            primary=$SELF
            break
        fi
    fi
    [ "$(date +%s)" -lt "$deadline" ] || die "$why; waited $WAIT seconds. See docs/runbook.md, \"A server does not start\"."
    sleep 1
done

umask 077
"$here/users.sh"
password=$(secret replication)
{
    cat "$CONFIG/redis.conf"
    [ "${PROFILE:-cache}" = cache ] || cat "$CONFIG/$PROFILE.conf"
    echo
    tls_lines "${SELF##*:}"
    printf '%s\n' "dir \"$DATA\"" "aclfile \"$DATA/users.acl\"" "masteruser replication" "masterauth \"$password\"" \
        "replica-announce-ip ${SELF%:*}" "replica-announce-port ${SELF##*:}"
    [ "$primary" = "$SELF" ] || echo "replicaof ${primary%:*} ${primary##*:}"
} >"$DATA/redis.conf.new"
mv "$DATA/redis.conf.new" "$DATA/redis.conf"
: >"$DATA/initialized"
say "$SELF starts as $([ "$primary" = "$SELF" ] && echo "the primary" || echo "a replica of $primary")."
