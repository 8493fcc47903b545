#!/bin/sh
# Makes a cluster of the servers in NODES (names and ports): the first half are primaries, each with a replica of the other
# half. Run again it does what is still to be done, and makes them know each other: for when all have come back with new
# addresses.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

deadline=$(($(date +%s) + WAIT))
# until WHAT COMMAND…: repeats it, once a second
until_done() {
    what=$1
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$deadline" ] || die "Waited $WAIT seconds for $what."
        sleep 1
    done
}

count=0
for node in $NODES; do count=$((count + 1)); done
half=$((count / 2))
first=${NODES%% *}

# nth NUMBER: the name and port of a node, from 1
nth() { echo "$NODES" | tr -s ' ' '\n' | sed -n "$1p"; }

# state NODE NAME: the value of NAME in CLUSTER INFO
state() { ask "$1" operator CLUSTER INFO | fact "$2"; }

answers() { ask "$1" operator PING >/dev/null; }

acquainted() {
    strangers=
    for node in $NODES; do [ "$(state "$node" cluster_known_nodes)" = "$count" ] || strangers=1; done
    [ "$strangers" ] || return 0
    for node in $NODES; do
        # MEET takes an address, and an address is another one after a restart.
        address=$(getent ahosts "${node%:*}" | awk '{ print $1; exit }')
        [ "$node" = "$first" ] || ask "$first" operator CLUSTER MEET "$address" "${node##*:}" >/dev/null || return 1
    done
    # A handshake counts as a node until it has ended.
    sleep 2
    return 1
}

# A primary without slots. One with slots has taken over from another.
empty() {
    ask "$1" operator CLUSTER NODES | awk '$3 ~ /myself/ { found = $3 ~ /master/ && NF < 9 } END { exit !found }'
}

replicates() { ask "$1" operator CLUSTER REPLICATE "$2" >/dev/null; }

works() { for node in $NODES; do [ "$(state "$node" cluster_state)" = ok ] || return 1; done; }

for node in $NODES; do until_done "$node to answer" answers "$node"; done
number=1
while [ "$number" -le "$count" ]; do
    node=$(nth "$number")
    # One that knows others got its slots and its epoch before.
    if [ "$(state "$node" cluster_known_nodes)" = 1 ]; then
        [ "$number" -gt "$half" ] || [ "$(state "$node" cluster_slots_assigned)" != 0 ] ||
            ask "$node" operator CLUSTER ADDSLOTSRANGE $((16384 * (number - 1) / half)) $((16384 * number / half - 1)) \
                >/dev/null || die "$node does not take its slots."
        ask "$node" operator CLUSTER SET-CONFIG-EPOCH "$number" >/dev/null || :
    fi
    number=$((number + 1))
done
until_done "the nodes to know each other" acquainted
number=1
while [ "$number" -le "$half" ]; do
    replica=$(nth $((number + half)))
    if empty "$replica"; then
        primary=$(ask "$(nth "$number")" operator CLUSTER MYID)
        until_done "$replica to become a replica" replicates "$replica" "$primary"
    fi
    number=$((number + 1))
done
until_done "the cluster to work" works
say "$count servers are a cluster."
