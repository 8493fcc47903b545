#!/bin/sh
# Makes the server's users file, $DATA/users.acl, of $CONFIG/users.acl and the passwords; see lib.sh.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=ops/scripts/lib.sh
. "$here/lib.sh"

umask 077
script=
for user in cache session monitor replication sentinel operator; do
    found=$(digests "$user") || exit 1
    script="$script;s/\${$(echo "$user" | tr '[:lower:]' '[:upper:]')}/$found/"
done
grep -v '^#' "$CONFIG/users.acl" | sed "${script#;}" >"$DATA/users.acl.new"
mv "$DATA/users.acl.new" "$DATA/users.acl"
