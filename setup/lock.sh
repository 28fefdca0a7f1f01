#!/usr/bin/env bash
# Writes the lock files anew (make lock): exact versions and hashes for the oldest Python that the
# project supports and, by markers, for every later one.
#   requirements.lock        everything: pyproject.toml with its dev extra, and setup/lock-*.in
#   requirements-image.lock  what the container image needs, in the same versions
# With arguments, only those packages move (make lock UPGRADE="trio ruff"); without, all may.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly resolver="uv==0.13.8"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$resolver"

cd "$root"
upgrade=()
for name in "$@"; do upgrade+=(--upgrade-package "$name"); done
[ $# -gt 0 ] || upgrade=(--upgrade)
compile() {
  "$work/venv/bin/uv" pip compile --quiet --system-certs --universal --python /usr/bin/python3 --python-version 3.11 \
    --generate-hashes --custom-compile-command "make lock" "$@"
}
compile "${upgrade[@]}" --extra dev -o requirements.lock pyproject.toml setup/lock-build.in setup/lock-tools.in
grep -v '^ *--hash' requirements.lock | sed 's/ \\$//' >"$work/constraints.txt"
compile -c "$work/constraints.txt" -o requirements-image.lock pyproject.toml setup/lock-build.in
sed -i '/^    #   -c /d' requirements-image.lock # a path of this run
echo "requirements.lock: $(grep -c == requirements.lock) packages, requirements-image.lock: $(grep -c == requirements-image.lock)"
