#!/usr/bin/env bash
# make test ("all") and make check ("quick", without the slow tests): every check as one line, then
# pytest, whose summary is the last line. Fails when a check fails, when a test fails, and when the
# machine is not left as it was found.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/setup/stages.sh"
cd "$root"

readonly bin="$root/.venv/bin"
readonly scope=${1:-all}
readonly before="$root/build/machine-before.json"
readonly pytest_log="$log_dir/pytest.log"
FQDNWALL_TEST_RUN=$(cat /proc/sys/kernel/random/uuid) # in the environment of all that the tests start
export FQDNWALL_TEST_RUN

c_sources() { git ls-files -co --exclude-standard -- 'bpf/*.c' 'bpf/*.h'; }
c_format() { c_sources | xargs -r "$bin/clang-format" --dry-run -Werror; }
types() { "$bin/mypy" --strict && "$bin/mypy" --strict -p tests.lab -p tests.e2e -p tests.kernels -p benchmarks; }

run_pytest() { # live, and into the log
  local select=()
  [ "$scope" = all ] || select=(-m "not slow")
  "$bin/python" -m pytest -q --durations=8 "${select[@]}" 2>&1 </dev/null | tee "$pytest_log"
}

failed=()
echo "${bold}checks${plain}"
"$bin/python" -m tests.lab.leftovers clear # of labs that were killed, before the machine is looked at
stage "machine before" "$bin/python" -m tests.lab.leftovers save "$before"
stage "ruff check" "$bin/ruff" check . || failed+=("ruff check")
stage "ruff format" "$bin/ruff" format --check . || failed+=("ruff format")
stage "clang-format" c_format || failed+=("clang-format")
stage "mypy strict" types || failed+=("mypy")
stage "import contracts" "$bin/lint-imports" || failed+=("import contracts")

echo "${bold}tests${plain}"
mkdir -p "$log_dir"
started=$(now_ms)
run_pytest || failed+=("pytest")
say "pytest" "$(seconds_since "$started")"
stage "nothing left behind" "$bin/python" -m tests.lab.leftovers compare "$before" || failed+=("left behind")

if [ ${#failed[@]} -gt 0 ]; then
  echo "${red}failed:${plain} $(printf '%s, ' "${failed[@]}" | sed 's/, $//')"
fi
grep -E '^=* ?[0-9]+ (passed|failed|skipped|deselected|error)|^=* ?no tests ran' "$pytest_log" | tail -n 1 || true
[ ${#failed[@]} -eq 0 ]
