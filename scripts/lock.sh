#!/bin/sh
# Resolves both lock files for all platforms, with hashes and without any index address.
set -eu
uv=$(mktemp -d)
trap 'rm -rf "$uv"' EXIT
python3 -m venv "$uv"
"$uv/bin/pip" install -q --disable-pip-version-check uv
compile() {
    "$uv/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header --no-annotate "$@"
}
compile pyproject.toml -o requirements.lock
compile pyproject.toml --extra dev -o requirements-dev.lock
# On top of the above, for the targets that need them.
compile pyproject.toml --extra emulators -c requirements-dev.lock -o requirements-emulators.lock
compile pyproject.toml --extra torture -c requirements-dev.lock -o requirements-torture.lock
