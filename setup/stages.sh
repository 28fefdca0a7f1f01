# shellcheck shell=bash
# Quiet stages: one line each with the time it took; the log is shown when a stage fails.
# Sourced by the scripts of this folder. Needs $root, the top of the checkout.

log_dir="$root/build/log"
if [ -t 1 ]; then
  bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' red='' green='' plain=''
fi

# now_ms: milliseconds since the epoch.
now_ms() { date +%s%3N; }

# seconds_since MS: "12.3 s".
seconds_since() {
  local ms=$(($(now_ms) - $1))
  printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

# say NAME TEXT...: one line of the report.
say() { printf '  %-22s %s\n' "$1" "${*:2}"; }

# stage NAME COMMAND...: runs COMMAND, its output in build/log/NAME.log; returns its status.
# Where COMMAND is a function, `set -e` does not hold inside: its steps end it by `|| return`.
stage() {
  local name=$1 started log status=0
  shift
  mkdir -p "$log_dir"
  log="$log_dir/${name//[ \/]/-}.log"
  started=$(now_ms)
  [ -t 1 ] && printf '  %-22s …\r' "$name"
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if [ "$status" -eq 0 ]; then
    say "$name" "${green}ok${plain}  $(seconds_since "$started")"
  else
    say "$name" "${red}FAILED${plain} (exit status $status, $(seconds_since "$started")); the end of $log:"
    tail -n 60 "$log" | sed 's/^/    | /'
  fi
  return "$status"
}
