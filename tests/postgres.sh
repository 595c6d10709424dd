#!/usr/bin/env bash
# PostgreSQL servers for tests.
#
#   postgres.sh bin <major>                 the directory of its programs
#   postgres.sh exec <major> <program> …    runs one of them, never as root, and ends it when the caller ends
#   postgres.sh private <major>             a new cluster, not started; prints its directory (data/ is inside)
#   postgres.sh shared <major>              a running cluster for all tests; prints "<port> <directory>"
#   postgres.sh state                       the directory of all this
#   postgres.sh stop                        stops the shared clusters, unless a test is using them
#
# Private clusters are copies of a template, made once for each major: initdb takes seconds, a copy a tenth of one.
# Who uses a shared cluster holds a shared lock on the file `lease`. A watchdog stops the clusters when nobody has
# held it for a while, so a run that is killed leaves nothing behind.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)
tools=${TOOLS_DIR:-$root/.tools}
read -r sum _ < <(cksum <<<"$root")
# In memory where there is room: making a database is 300 files, 50 ms there and 300 ms on a disk. A container's
# /dev/shm is often 64 MB. The path is short because a socket's may have 107 bytes.
room=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) || room=0
state=${PGUSHER_E2E_DIR:-/dev/shm/pgusher-e2e-$UID-$sum}
[[ ${PGUSHER_E2E_DIR:-} || -d $state ]] || ((room > 4 << 20)) || state=/tmp/${state##*/}
idle=${PGUSHER_E2E_IDLE:-60}                         # seconds without a test before the watchdog stops the clusters

fail() {
    echo "postgres.sh: $*" >&2
    exit 1
}

# PostgreSQL refuses to run as root. $drop becomes what runs a command as an account without privileges.
drop=()
account=
choose_account() {
    ((UID == 0)) || return 0
    account=${PGUSHER_E2E_ACCOUNT:-$(getent passwd postgres nobody | head -n 1 | cut -d : -f 1)} || true
    [[ $account ]] || fail "no account to run PostgreSQL as: set PGUSHER_E2E_ACCOUNT"
    drop=(setpriv --reuid "$account" --regid "$(id -g "$account")" --clear-groups)
}

bin() { # major
    local dir
    for dir in "$tools/postgres/$1" "/usr/lib/postgresql/$1"; do
        [[ -x $dir/bin/postgres ]] || continue
        if "${drop[@]:-env}" test -x "$dir/bin/postgres"; then echo "$dir/bin"; else reachable_copy "$1" "$dir"; fi
        return
    done
    fail "PostgreSQL $1 is not installed: run tests/setup.sh"
}

reachable_copy() { # of programs that the account cannot get at, because the repository is below /root, say
    local copy=/tmp/${state##*/}-programs
    mkdir -p "$copy"
    exec 5>"$copy/$1.lock"
    flock 5
    if ! cmp -s "$2/.stamp" "$copy/$1/.stamp"; then
        rm -rf "${copy:?}/$1"
        cp -rL --reflink=auto "$2" "$copy/$1.new"
        mv "$copy/$1.new" "$copy/$1"
    fi
    exec 5>&-
    echo "$copy/$1/bin"
}

own() { # a directory, made for the account
    mkdir -p "$1"
    if [[ $account ]]; then chown "$account:" "$1"; fi
    chmod 755 "$1"
}

template() { # major → $template
    local programs
    programs=$(bin "$1")
    read -r sum _ < <({ cat "$here/postgres.sh"; stat -c '%s %Y' "$programs/postgres"; } | cksum)
    template=$state/template-$1-$sum
    [[ -f $template/made ]] && return 0

    mkdir -p "$state"
    certificates
    exec 7>"$state/template-$1.lock"
    flock 7
    if [[ ! -f $template/made ]]; then
        rm -rf "$state/template-$1-"*
        own "$template"
        make_template "$programs" "$template/data" >"$template.log" 2>&1 7>&- || { cat "$template.log" >&2; fail "initdb of $1"; }
        touch "$template/made"
    fi
    exec 7>&-
}

# A CA of the tests' own, and the certificate every server shows; made once, before the first template.
certificates() {
    [[ -f $state/tls/made ]] && return 0
    exec 4>"$state/tls.lock"
    flock 4
    if [[ ! -f $state/tls/made ]]; then
        mkdir -p "$state/tls"
        make_certificates >"$state/tls/log" 2>&1 4>&- || { cat "$state/tls/log" >&2; fail "openssl could make no certificates"; }
        touch "$state/tls/made"
    fi
    exec 4>&-
}

make_certificates() {
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
    cd "$state/tls"
    openssl req -x509 "${key[@]}" -days 3650 -subj '/CN=tests of pgusher' -keyout ca.key -out ca.crt
    openssl req -new "${key[@]}" -subj '/CN=localhost' -keyout server.key -out server.csr
    echo 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1' >server.ext
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile server.ext -out server.crt
}

make_template() { # programs data
    cd / # the account may not be allowed to be here
    "${drop[@]}" "$1/initdb" -D "$2" -U postgres --auth=trust --encoding=UTF8 --no-locale --wal-segsize=1 --no-sync
    cat >>"$2/postgresql.conf" <<'CONF'
listen_addresses = '127.0.0.1'
max_connections = 300
shared_buffers = 32MB
max_prepared_transactions = 16
fsync = off
synchronous_commit = off
full_page_writes = off
checkpoint_timeout = 1h
min_wal_size = 2MB
autovacuum = off
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
ssl = on
ssl_ca_file = 'ca.crt'
CONF
    install -m 600 ${account:+-o "$account"} "$state"/tls/{ca.crt,server.crt,server.key} "$2"
    # One role for each way to be let in; over the socket the superuser needs no password.
    cat >"$2/pg_hba.conf" <<'CONF'
local all         all                       trust
host  all         postgres   127.0.0.1/32   trust
host  replication postgres   127.0.0.1/32   trust
host  all         trusted    127.0.0.1/32   trust
host  all         hashed     127.0.0.1/32   md5
host  all         cleartext  127.0.0.1/32   password
hostssl   all     encrypted  127.0.0.1/32   scram-sha-256
hostnossl all     plain      127.0.0.1/32   scram-sha-256
hostssl   all     certified  127.0.0.1/32   cert
host  all         encrypted,plain,certified 127.0.0.1/32 reject
host  all         all        127.0.0.1/32   scram-sha-256
CONF
    "${drop[@]}" "$1/postgres" --single -D "$2" postgres <<'SQL'
create role app login password 'app';
create role other login password 'other';
create role trusted login;
create role cleartext login password 'cleartext';
create role encrypted login password 'encrypted';
create role plain login password 'plain';
create role certified login;
set password_encryption = 'md5';
create role hashed login password 'hashed';
SQL
}

private() { # major
    template "$1"
    local dir
    dir=$(mktemp -d "$state/p$1-XXXXXX")
    own "$dir"
    "${drop[@]}" cp -a --reflink=auto "$template/data" "$dir/data"
    echo "$dir"
}

running() { # directory: is a server ready there?
    local pid=$1/data/postmaster.pid lines
    [[ -f $pid ]] || return 1
    mapfile -t lines <"$pid" 2>/dev/null || return 1
    [[ ${lines[7]:-} == ready* ]] && kill -0 "${lines[0]}" 2>/dev/null && echo "${lines[3]} $1"
}

shared() { # major
    local dir=$state/s$1
    mkdir -p "$state"
    touch "$state/lease"
    running "$dir" && return 0

    exec 9>"$state/shared-$1.lock"
    flock 9
    if ! running "$dir"; then
        template "$1"
        start_shared "$1" "$dir" 9>&-
        running "$dir" || fail "the shared cluster of $1 is not ready: $(tail "$dir/log")"
    fi
    setsid "$here/postgres.sh" watch </dev/null >/dev/null 2>&1 9>&- &
    exec 9>&-
}

start_shared() { # major directory
    local attempt port
    rm -rf "$2"
    own "$2"
    local programs
    programs=$(bin "$1")
    cd /
    "${drop[@]}" cp -a --reflink=auto "$template/data" "$2/data"
    for attempt in {1..20}; do
        port=$((10000 + RANDOM % 2000)) # the harness takes its own from above these
        "${drop[@]}" setsid "$programs/pg_ctl" start -w -t 60 -D "$2/data" -l "$2/log" -o "-p $port -k '$2'" \
            </dev/null >/dev/null 2>&1 && return 0
        grep -q 'could not bind' "$2/log" || break
    done
    fail "the shared cluster of $1 does not start: $(tail "$2/log")"
}

stop() { # succeeds if nothing runs afterwards
    [[ -d $state ]] || return 0
    local dir pid
    exec 8>>"$state/lease"
    flock -n 8 || return 1 # those who come now wait for this lock before they ask for a server
    for dir in "$state"/s[0-9]*; do
        [[ -f $dir/data/postmaster.pid ]] || continue
        read -r pid <"$dir/data/postmaster.pid"
        kill -QUIT "$pid" 2>/dev/null || continue
        while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    done
    rm -rf "$state"/s[0-9]* "$state"/p[0-9]*
    exec 8>&-
}

watch() {
    exec 6>"$state/watch.lock"
    flock -n 6 || exit 0 # one is enough
    while :; do
        flock -x "$state/lease" true # while a test lives, this waits
        sleep "$((idle / 4 + 1))"
        (($(date +%s) - $(stat -c %Y "$state/lease") < idle)) && continue
        stop && exit 0
    done
}

choose_account
case ${1:-} in
    bin) bin "$2" ;;
    exec)
        program=$(bin "$2")/$3
        cd / # the account may not be allowed to be here
        exec "${drop[@]:-setpriv}" --pdeathsig QUIT -- "$program" "${@:4}"
        ;;
    private) private "$2" ;;
    shared) shared "$2" ;;
    state)
        mkdir -p "$state"
        echo "$state"
        ;;
    stop) stop || true ;;
    watch) watch ;;
    *) fail "usage: see the top of this file" ;;
esac
