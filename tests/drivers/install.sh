#!/usr/bin/env bash
# Installs the drivers under test into TOOLS_DIR (default: .tools at the root of the repository): a Python environment
# in python/, Node packages in node/, Prisma and the client it generates in prisma/; Go's programs are compiled into go/. Does nothing while
# requirements.txt, package.json and the like are the ones installed last. Those of Java and Ruby come by apt alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${TOOLS_DIR:-$(cd "$here/../.." && pwd)/.tools}
python=${PYTHON:-python3}

stamp_of() { # the words that decide what is installed, and the interpreter it is built for
    { cat "$1"; "$2" --version; } | sha256sum | cut -d ' ' -f 1
}

up_to_date() {
    [[ -f $1 && $(<"$1") == "$2" ]]
}

# By itself: 150 packages, none of whose scripts need to run. Its client needs no engine; the migrator's, which "generate" looks for
# and does not use, would be downloaded from elsewhere.
install_prisma() {
    local wanted
    wanted=$({ cat "$here/prisma/"*; node --version; } | sha256sum | cut -d ' ' -f 1)
    up_to_date "$tools/prisma/.stamp" "$wanted" && return 0
    rm -rf "$tools/prisma"
    mkdir -p "$tools/prisma"
    cp "$here/prisma/"* "$tools/prisma"
    npm install --prefix "$tools/prisma" --ignore-scripts --no-package-lock --no-audit --no-fund --loglevel=error
    (
        cd "$tools/prisma"
        export PRISMA_SCHEMA_ENGINE_BINARY=/bin/true PRISMA_HIDE_UPDATE_MESSAGE=1 CHECKPOINT_DISABLE=1
        node node_modules/prisma/build/index.js generate --schema schema.prisma --no-hints >/dev/null
    )
    echo "$wanted" >"$tools/prisma/.stamp"
}

# What takes time is kept; the program itself is linked by the test that runs it.
compile_go() {
    local wanted program programs=("$here/identity/with_pgx.go" "$here/exporter.go")
    wanted=$({ cat "${programs[@]}"; go version; } | sha256sum | cut -d ' ' -f 1)
    up_to_date "$tools/go/.stamp" "$wanted" && return 0
    mkdir -p "$tools/go"
    for program in "${programs[@]}"; do
        GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$tools/go go build -o /dev/null "$program"
    done
    echo "$wanted" >"$tools/go/.stamp"
}

mkdir -p "$tools"
exec 9>"$tools/.lock"
flock 9 # two test runs may want the drivers at once

install_prisma &
pids=($!)
compile_go &
pids+=($!)

wanted=$(stamp_of "$here/requirements.txt" "$python")
if ! up_to_date "$tools/python/.stamp" "$wanted"; then
    rm -rf "$tools/python"
    "$python" -m venv "$tools/python"
    "$tools/python/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    echo "$wanted" >"$tools/python/.stamp"
fi

wanted=$(stamp_of "$here/package.json" node)
if ! up_to_date "$tools/node/.stamp" "$wanted"; then
    rm -rf "$tools/node"
    mkdir -p "$tools/node"
    cp "$here/package.json" "$tools/node/package.json"
    npm install --prefix "$tools/node" --no-package-lock --no-audit --no-fund --loglevel=error
    echo "$wanted" >"$tools/node/.stamp"
fi

for pid in "${pids[@]}"; do wait "$pid"; done
echo "$tools"
