#!/bin/sh
# Prints the newest usable Python from 3.14 down to 3.11, or says what is missing and exits 1.
# "Usable" is tried, not assumed: version managers leave shims that exist but refuse to run.
old=""
novenv=""
for name in ${PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3 python; do
    command -v "$name" >/dev/null 2>&1 || continue
    version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if ! "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
        old="$old $name ($version)"
        continue
    fi
    if ! "$name" -c 'import ensurepip, venv' 2>/dev/null; then
        novenv="$novenv $name ($version)"
        continue
    fi
    "$name" -c 'import sys; print(sys.executable)'
    exit 0
done
echo "Trunkline needs Python 3.11 to 3.14 with the venv module, and found none." >&2
[ -n "$novenv" ] && echo "  without venv:$novenv: install it (on Debian and Ubuntu: apt install python3-venv)" >&2
[ -n "$old" ] && echo "  wrong version:$old" >&2
echo "  Name another interpreter with: make PYTHON=/path/to/python3.12 ..." >&2
exit 1
