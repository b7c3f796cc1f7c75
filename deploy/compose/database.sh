#!/usr/bin/env bash
# One of the two PostgreSQL servers that keep a ledger. One of them is written, and the other one
# follows it; each can do both. In the container of the server $NAME, beside the server $PEER:
#
#   database.sh new      makes a database, where there is none: once, and on one of them only
#   database.sh serve    serves what there is, or first copies it from the other one
#   database.sh follow   copies it from the other one in place of what there is
#   database.sh health   succeeds if it is written, or follows
#
# What there is stays until its successor is complete. Only `new` makes a database: a server that
# lost its disk must not begin an empty one where there is a ledger.

set -euo pipefail

readonly SECRETS=/run/secrets
# In memory, and only of this container.
readonly OWN=/run/postgresql
readonly MAKING="$PGDATA.making"
readonly LOOK_AGAIN_SECONDS=1

# How the other server is reached, as one that can be written.
readonly CONNECTION="host=$PEER user=replicator passfile=$OWN/passwords \
sslmode=verify-full sslrootcert=$SECRETS/ca.pem"

# Those of one server. The others are in postgresql.conf.
readonly SETTINGS=(
    -c config_file=/etc/postgresql/postgresql.conf
    -c "cluster_name=$NAME"
    -c "ssl_cert_file=$SECRETS/$NAME.pem"
    # By this name it is waited for.
    -c "primary_conninfo=$CONNECTION application_name=$NAME"
)

# PostgreSQL takes neither a key nor a file with passwords that others may read.
take_secrets() {
    umask 077
    cat "$SECRETS/$NAME.key" >"$OWN/server.key"
    echo "*:*:*:replicator:$(cat "$SECRETS/replicator.password")" >"$OWN/passwords"
}

# What is said to the new database: one statement a line.
roles() {
    local role
    for role in replicator daybook_owner daybook; do
        echo "create role $role login password '$(cat "$SECRETS/$role.password")'"
    done
    echo "alter role replicator replication"
    echo "create database daybook owner daybook_owner"
    echo "revoke all on database daybook from public"
    echo "grant connect on database daybook to daybook"
}

new() {
    if [[ -e $PGDATA ]]; then
        echo "there is a database already" >&2
        exit 1
    fi
    rm -rf "$MAKING"
    initdb --pgdata "$MAKING" --username postgres --auth-local peer --auth-host reject \
        --encoding UTF8 --locale C --data-checksums
    # Nobody can connect, and nobody follows yet.
    roles | postgres --single -D "$MAKING" "${SETTINGS[@]}" -c synchronous_standby_names= \
        -c exit_on_error=on postgres >/dev/null
    mv "$MAKING" "$PGDATA"
}

follow() {
    trap 'exit 1' INT TERM
    rm -rf "$MAKING"
    # By another name: a copy that is not complete must not be what a commit waits for.
    until pg_basebackup \
        --dbname "$CONNECTION application_name=copy target_session_attrs=read-write" \
        --pgdata "$MAKING" --checkpoint fast; do
        sleep "$LOOK_AGAIN_SECONDS"
    done
    touch "$MAKING/standby.signal"
    # What somebody changed there by `alter system` was for then and there.
    : >"$MAKING/postgresql.auto.conf"
    rm -rf "$PGDATA"
    mv "$MAKING" "$PGDATA"
    trap - INT TERM
}

serve() {
    [[ -e $PGDATA ]] || follow
    exec postgres -D "$PGDATA" "${SETTINGS[@]}"
}

health() {
    local question="select not pg_is_in_recovery()
        or exists (select from pg_stat_wal_receiver where status = 'streaming')"
    [[ $(psql --no-psqlrc --username postgres --tuples-only --no-align \
        --command "$question") == t ]]
}

case ${1-} in
    new | serve | follow)
        take_secrets
        "$1"
        ;;
    health) health ;;
    *)
        echo "expected new, serve, follow or health" >&2
        exit 64
        ;;
esac
