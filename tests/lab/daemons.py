"""Debian's servers as the lab runs them: configuration text in, a running process out.

Each runs in the foreground, as one process, out of the lab's own directory, and never reads or
writes anything of the same server installed on the machine.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab import world
from tests.lab.certificates import Certificates
from tests.lab.namespaces import Namespace

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Daemon:
    """A server that is running; its output goes to `log`."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def stop(self) -> None:
        """Ends the process, by its id, and waits until it is gone."""
        self.process.kill()
        self.process.wait()


def knot_configuration(directory: Path, zone: Path) -> str:
    """Knot DNS serving one zone, the root."""
    return f"""\
server:
  rundir: {directory}
  listen: [{world.AUTHORITATIVE_V4}@53, {world.AUTHORITATIVE_V6}@53]
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
control:
  listen: {directory}/knot.sock
database:
  storage: {directory}
log:
  - target: stderr
    any: warning
zone:
  - domain: .
    file: {zone}
    journal-content: none
"""


def unbound_configuration(directory: Path) -> str:
    """A recursive resolver for everyone; answers of the rotating zones are never cached."""
    listen = "\n".join(
        f"  interface: {address}"
        for address in (
            world.RESOLVER_V4,
            world.RESOLVER_V6,
            world.OTHER_RESOLVER_V4,
            world.OTHER_RESOLVER_V6,
        )
    )
    rotating = "".join(
        f"stub-zone:\n  name: {zone}\n  stub-addr: {world.ROTATING_V4}\n  stub-no-cache: yes\n"
        for zone in (world.ROTATING_ZONE, world.ROTATING_NAME, world.LASTING_ZONE)
    )
    return f"""\
server:
  directory: {directory}
  username: ""
  chroot: ""
  pidfile: ""
  do-daemonize: no
  use-syslog: no
  logfile: ""
{listen}
  outgoing-interface: {world.RESOLVER_V4}
  outgoing-interface: {world.RESOLVER_V6}
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  module-config: iterator
  qname-minimisation: no
  num-threads: 1
  outgoing-range: 4096
  num-queries-per-thread: 2048
  incoming-num-tcp: 512
  so-rcvbuf: 0
  so-sndbuf: 0
  msg-cache-size: 32m
  rrset-cache-size: 64m
remote-control:
  control-enable: yes
  control-interface: {directory}/unbound.sock
  control-use-cert: no
stub-zone:
  name: .
  stub-addr: {world.AUTHORITATIVE_V4}
{rotating}"""


def nginx_configuration(directory: Path, certificates: Certificates) -> str:
    """A web server on every address of the internet that says which name and address was asked."""
    listen = [f"listen {where}{port} backlog=8192" for port in world.WEB_PORTS for where in _ALL]
    listen += [
        f"listen {where}{port} ssl backlog=8192" for port in world.TLS_PORTS for where in _ALL
    ]
    temporary = " ".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; multi_accept on; }}
http {{
  {temporary}
  access_log off;
  default_type text/plain;
  keepalive_requests 10000000;
  ssl_certificate {certificates.certificate};
  ssl_certificate_key {certificates.key};
  server {{
    {"; ".join(listen)};
    location / {{ return 200 "$host $server_addr $server_port\\n"; }}
    location = /blob {{ alias {directory}/blob; }}
    location = /slow {{ alias {directory}/blob; limit_rate 100k; }}
  }}
}}
"""


_ALL = ("", "[::]:")


def start(
    name: str, internet: Namespace, directory: Path, certificates: Certificates | None = None
) -> Daemon:
    """Starts the server `name` inside `internet`. It is not ready yet when this returns."""
    configuration = directory / f"{name}.conf"
    log = directory / f"{name}.log"
    match name:
        case "knot":
            zone = directory / "root.zone"
            zone.write_text(world.zone_file())
            configuration.write_text(knot_configuration(directory, zone))
            command = ["knotd", "-c", str(configuration)]
        case "unbound":
            configuration.write_text(unbound_configuration(directory))
            command = ["unbound", "-d", "-p", "-c", str(configuration)]
        case "nginx":
            assert certificates is not None
            with (directory / "blob").open("wb") as blob:
                blob.truncate(1 << 30)
            configuration.write_text(nginx_configuration(directory, certificates))
            command = ["nginx", "-e", "stderr", "-p", str(directory), "-c", str(configuration)]
        case "rotating":
            listen = [str(world.ROTATING_V4), str(world.ROTATING_V6)]
            command = [sys.executable, "-m", "tests.lab.rotating", *listen]
        case _:
            raise ValueError(name)
    with log.open("w") as output:
        process = internet.start(command, stdout=output, stderr=output, directory=REPOSITORY)
    return Daemon(name, process, log)
