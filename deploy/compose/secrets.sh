#!/usr/bin/env bash
# Makes what compose.yaml calls secrets, once, in the directory `secrets` beside it: passwords, and
# the certificates by which the two database servers prove who they are.
#
# Compose gives a file to a container as it is, and users have other numbers there. So the files can
# be read by all, and the directory by nobody else.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly DAYS=3650
readonly DATABASES=(database-a database-b)
readonly KEY=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc)

umask 077
if [[ -e secrets ]]; then
    echo "there are secrets already, and the databases know them" >&2
    exit 1
fi
making=$(mktemp --directory secrets.XXXXXX)
trap 'rm -rf "$making"' EXIT

openssl req -x509 "${KEY[@]}" -days "$DAYS" -subj "/CN=databases of daybook" \
    -addext keyUsage=critical,keyCertSign -keyout "$making/ca.key" -out "$making/ca.pem"
for name in "${DATABASES[@]}"; do
    openssl req -x509 "${KEY[@]}" -days "$DAYS" -subj "/CN=$name" \
        -CA "$making/ca.pem" -CAkey "$making/ca.key" -addext basicConstraints=critical,CA:FALSE \
        -addext "subjectAltName=DNS:$name" -addext extendedKeyUsage=serverAuth \
        -keyout "$making/$name.key" -out "$making/$name.pem"
done
# Nobody can make another certificate.
rm "$making/ca.key"

# Writes a password, and gives it: no character of it means anything in a URL or in SQL.
password() {
    openssl rand -hex 24 | tee "$making/$1.password"
}

# Writes the settings of daybook for one role of the database.
settings() {
    local hosts query="target_session_attrs=read-write&sslmode=verify-full"
    query+="&sslrootcert=/run/secrets/ca.pem"
    hosts=$(IFS=,; echo "${DATABASES[*]}")
    echo "database_url = \"postgres://$1:$2@$hosts/daybook?$query\"" >"$making/$1.toml"
}

password replicator >/dev/null
owner=$(password daybook_owner)
node=$(password daybook)
settings daybook_owner "$owner"
settings daybook "$node"

chmod 0444 "$making"/*
mv "$making" secrets
