#!/usr/bin/env bash
# Installs the drivers under test into TOOLS_DIR (default: .tools at the root of the repository): a Python environment
# in python/, Node packages in node/. Does nothing while requirements.txt and package.json are the ones installed last.
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

mkdir -p "$tools"
exec 9>"$tools/.lock"
flock 9 # two test runs may want the drivers at once

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

echo "$tools"
