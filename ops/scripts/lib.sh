# shellcheck shell=sh
# What the scripts beside this one share; read by them, never run. POSIX sh, with redis-cli or valkey-cli, sed, awk and
# sha256sum, which the official images have.
#
#   SELF        the name and port under which the others find this server, as in redis-0.redis:6379
#   OWN         where its own probes and preStop ask it: 127.0.0.1 and the port of SELF, with TLS localhost, which certificates
#               are for as well. Not SELF: when names stop resolving, no server is to be restarted for that.
#   SENTINELS   the same of all Sentinels, separated by spaces
#   SECRETS     a directory with a file for each password: cache, session, monitor, replication, sentinel, operator (the
#               users of users.acl) and sentinels (the Sentinels' own). Where NAME.previous is there as well, both are
#               accepted: that is how a password is changed without a refused call. The scripts try both too, for the
#               server may not have the new one yet.
#   CONFIG      the directory of redis.conf, durable.conf, sentinel.conf and users.acl
#   DATA        the volume
#   SERVICE     the name of the primary with the Sentinels (aikcache)
#   WAIT        how many seconds to wait for others at most (60)
#   TLS         a directory with tls.crt, tls.key and ca.crt; empty: without TLS

SERVICE=${SERVICE:-aikcache}
WAIT=${WAIT:-60}
TLS=${TLS:-}
if [ -z "${OWN:-}" ] && [ -n "${SELF:-}" ]; then OWN=$([ "$TLS" ] && echo localhost || echo 127.0.0.1):${SELF##*:}; fi
QUORUM=2

say() { echo "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# One line, without its end. A password is used in configuration files, hence what it may not have in it.
secret() {
    [ -s "$SECRETS/$1" ] || die "There is no password $SECRETS/$1: the Secret needs an entry $1."
    case $(cat "$SECRETS/$1") in
    *[[:cntrl:]\"\\]*) die "$SECRETS/$1 has a quote, a backslash or a control character in it: choose another password." ;;
    esac
    cat "$SECRETS/$1"
}

# The digests of a user's passwords as an ACL rule: one, or two while one is being replaced.
digests() {
    for name in "$1" "$1.previous"; do
        if [ "$name" = "$1" ] || [ -s "$SECRETS/$name" ]; then
            word=$(secret "$name") || exit 1
            printf '#%s ' "$(printf %s "$word" | { sha256sum 2>/dev/null || shasum -a 256; } | cut -d' ' -f1)"
        fi
    done
}

CLI=$(command -v redis-cli || command -v valkey-cli || echo redis-cli)

# ask HOST:PORT USER COMMAND…: the reply; it fails when nobody answers within 3 seconds, or with a refusal. Where the
# password is refused the previous one is tried.
ask() {
    where=$1 user=$2
    shift 2
    ask_by "$user" "$@" && return
    # With -x the last argument has been read from the pipe, and would be empty now.
    case $refusal in
    *WRONGPASS*) [ -s "$SECRETS/$user.previous" ] && [ "$1" != -x ] && ask_by "$user.previous" "$@" ;;
    *) return 1 ;;
    esac
}

# ask_by PASSWORD COMMAND…: what `ask` asks, by this file's password; why not is in `refusal`. The password goes through
# the environment: what is on a command line can be read by everybody on the host.
ask_by() {
    refusal=
    REDISCLI_AUTH=$(secret "$1") || return 1
    export REDISCLI_AUTH
    shift
    if [ "$user" = sentinels ]; then name=default; else name=$user; fi
    # shellcheck disable=SC2086  # a list of words
    { refusal=$(timeout 3 "$CLI" -e --raw -h "${where%:*}" -p "${where##*:}" --user "$name" \
        ${TLS:+--tls --cacert "$TLS/ca.crt" --cert "$TLS/tls.crt" --key "$TLS/tls.key"} "$@" 2>&1 >&3 3>&-); } 3>&1
}

# field NAME: the value after NAME in a reply of names and values, one a line
field() { awk -v name="$1" 'found { print; exit } $0 == name { found = 1 }'; }

# fact NAME: the value of NAME in INFO
fact() { tr -d '\r' | sed -n "s/^$1://p"; }

# What the Sentinels report: "EPOCH REPLICAS BUSY HOST:PORT" of the one with the newest configuration, from at least a quorum
# of them; BUSY is 1 while one of them carries out a failover. A Sentinel that was away may still name an old primary,
# but never with the newest epoch.
reported_by_sentinels() {
    for sentinel in $SENTINELS; do
        reply=$(ask "$sentinel" sentinels SENTINEL MASTER "$SERVICE") || continue
        case $(echo "$reply" | field flags) in *failover_in_progress*) busy=1 ;; *) busy=0 ;; esac
        echo "$(echo "$reply" | field config-epoch)" "$(echo "$reply" | field num-slaves)" "$busy" \
            "$(echo "$reply" | field ip):$(echo "$reply" | field port)"
    done | sort -n | awk -v quorum=$QUORUM '
        $3 { busy = 1 }
        { epoch = $1; replicas = $2; address = $4 }
        END { if (NR >= quorum) print epoch, replicas, busy + 0, address; else exit 1 }'
}

tls_lines() { # PORT
    [ -n "$TLS" ] || { echo "port $1" && return; }
    printf '%s\n' "port 0" "tls-port $1" "tls-replication yes" "tls-cert-file \"$TLS/tls.crt\"" \
        "tls-key-file \"$TLS/tls.key\"" "tls-ca-cert-file \"$TLS/ca.crt\"" "tls-auth-clients optional"
    [ "${PROFILE:-}" != cluster ] || echo "tls-cluster yes"
}
