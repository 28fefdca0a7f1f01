#!/usr/bin/env bash
# Brings a Debian machine to the point where fqdnwall runs, and its demo and tests:
#   1. Debian packages (setup/debian-packages), only those that are missing;
#   2. .venv, made from /usr/bin/python3, with exactly the versions of requirements.lock;
#   3. the BPF file system.
# Safe to run again at any time, from any directory, after an interruption too; when there is nothing
# to do it takes a fraction of a second. Services that come with a package are neither started nor
# enabled, and a service that was there before is not touched.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/setup/stages.sh"

export PATH="${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_REQUIRE_VIRTUALENV PIP_TARGET PIP_PREFIX PIP_USER

readonly system_python=/usr/bin/python3 # never the first on PATH: bcc belongs to this one
readonly venv="$root/.venv"
readonly stamp="$venv/.made-from"          # what a finished .venv was made from
readonly unfinished="$root/build/venv-unfinished"
readonly policy_rc_d=/usr/sbin/policy-rc.d # asked by Debian before it starts a service
readonly packages_log="Debian packages"

wanted_packages() { sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$root/setup/debian-packages"; }
installed_packages() { dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 2>/dev/null | sed -n 's/^ii //p' | sort -u; }
missing_packages() { comm -23 <(wanted_packages | sort -u) <(installed_packages); }

apt() { apt-get -q -o DPkg::Lock::Timeout=300 -o APT::Acquire::Retries=3 "$@"; }

# Debian starts and enables a service when its package is installed. These are only tools of ours here.
leave_services_off() { # PACKAGE...
  local package unit
  for package in "$@"; do
    for unit in $(dpkg -L "$package" | sed -n 's|^\(/usr\)\?/lib/systemd/system/\([^/@]*\.service\)$|\2|p'); do
      echo "leaving $unit of $package off"
      if command -v systemctl >/dev/null; then
        systemctl --no-reload disable "$unit" || true
      fi
    done
    if command -v update-rc.d >/dev/null && [ -e "/etc/init.d/$package" ]; then
      update-rc.d "$package" disable || true
    fi
  done
}

install_packages() { # PACKAGE...
  local before after own_policy=no status=0
  dpkg --configure -a # an interrupted dpkg run refuses everything else
  before=$(installed_packages)
  if [ ! -e "$policy_rc_d" ]; then
    own_policy=yes
    # shellcheck disable=SC2064
    trap "rm -f '$policy_rc_d'" EXIT
    printf '#!/bin/sh\n# fqdnwall set-up: no service is started while its packages are installed\nexit 101\n' >"$policy_rc_d"
    chmod 755 "$policy_rc_d"
  fi
  # The lists of a fresh machine are missing or old: refresh them only when the install needs it.
  apt install -y --no-install-recommends "$@" || { apt update && apt install -y --no-install-recommends "$@"; } || status=$?
  if [ "$own_policy" = yes ]; then
    rm -f "$policy_rc_d"
    trap - EXIT
  fi
  after=$(installed_packages)
  # shellcheck disable=SC2046
  leave_services_off $(comm -13 <(echo "$before") <(echo "$after"))
  return "$status"
}

venv_recipe() {
  echo "$root"
  "$system_python" -V
  sha256sum <"$root/requirements.lock"
  sha256sum <"$root/pyproject.toml"
}

venv_usable() {
  [ ! -e "$unfinished" ] && grep -qs '^include-system-site-packages = true' "$venv/pyvenv.cfg" &&
    grep -qs '^home = /usr/bin$' "$venv/pyvenv.cfg" && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

make_venv() {
  if ! venv_usable; then
    rm -rf "$venv" && mkdir -p "$(dirname "$unfinished")" && touch "$unfinished" &&
      "$system_python" -m venv --system-site-packages "$venv" || return
  fi
  touch "$unfinished" && rm -f "$stamp" || return
  "$venv/bin/python" -m pip install --disable-pip-version-check --require-hashes -r "$root/requirements.lock" || return
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-deps --no-build-isolation --no-index -e "$root" || return
  venv_recipe >"$stamp" && rm -f "$unfinished"
}

mount_bpffs() { mount -t bpf -o mode=700 bpf /sys/fs/bpf; }

if [ "$(id -u)" -ne 0 ]; then
  echo "fqdnwall's set-up, demo and tests need root (namespaces, BPF): sudo make ${1:-setup}" >&2
  exit 1
fi
if ! command -v apt-get >/dev/null; then
  echo "this set-up knows Debian only (apt-get is not here); setup/debian-packages lists what is needed" >&2
  exit 1
fi
mkdir -p "$root/build"
exec 9>"$root/build/setup.lock"
flock 9 # two runs of make at once: the second waits and finds everything done
started=$(now_ms)
echo "${bold}fqdnwall set-up${plain}"

mapfile -t missing < <(missing_packages)
if [ ${#missing[@]} -gt 0 ]; then
  say "$packages_log" "installing ${missing[*]}"
  stage "$packages_log" install_packages "${missing[@]}"
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$(venv_recipe)" ] || [ -e "$unfinished" ] || [ ! -x "$venv/bin/fqdnwall" ]; then
  stage "Python environment" make_venv
fi
if ! mountpoint -q /sys/fs/bpf; then
  stage "mount /sys/fs/bpf" mount_bpffs
fi
say "ready" "$(seconds_since "$started")"
