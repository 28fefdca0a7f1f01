"""Answers of real servers, kept as the corpus: ``python -m tests.datapath.capture``, as root.

Knot serves a signed zone with chains, DNAME, services and delegations; unbound resolves from it,
once in its usual manner and once with full answers. Every answer is written to ``corpus/`` with a
name that says who wrote it. Runs in a network namespace of its own. The tests read the files only.
"""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from tests.datapath import messages as m
from tests.lab.namespaces import Namespace

CORPUS = Path(__file__).parent / "corpus"
KNOT, UNBOUND, VERBOSE = 5300, 5301, 5302
TYPES = {"A": m.A, "AAAA": m.AAAA, "HTTPS": m.HTTPS, "MX": m.MX, "ANY": m.ANY}

ZONE = """\
$ORIGIN example.com.
$TTL 300
@ SOA ns1 admin 1 7200 3600 86400 900
@ NS ns1
@ NS ns2.example.net.
@ MX 10 mail
@ MX 20 mail.example.net.
@ A 203.0.113.1
@ AAAA 2001:db8::1
@ TXT "v=spf1 -all"
@ HTTPS 1 . alpn=h2,h3 ipv4hint=203.0.113.1,203.0.113.2 ipv6hint=2001:db8::1
ns1 A 127.0.0.1
ns1 AAAA ::1
mail A 203.0.113.25
www 60 A 203.0.113.10
www 60 A 203.0.113.11
www 60 AAAA 2001:db8::10
alias 30 CNAME www
far 20 CNAME edge.cdn.example.net.
long 10 CNAME alias2
alias2 40 CNAME alias3
alias3 50 CNAME far
tree DNAME other.example.net.
svc HTTPS 0 svc.example.net.
h HTTPS 1 svc alpn=h2 port=8443 ipv4hint=203.0.113.3 ech=AAAA ipv6hint=2001:db8::3,2001:db8::4
hh CNAME h
*.wild A 203.0.113.77
sub NS ns.sub
ns.sub A 203.0.113.53
""" + "".join(f"many A 198.51.100.{n}\nmany AAAA 2001:db8:5::{n:x}\n" for n in range(1, 41))
OTHER = """\
$ORIGIN example.net.
$TTL 120
@ SOA ns1.example.com. admin 1 7200 3600 86400 900
@ NS ns1.example.com.
ns2 A 127.0.0.2
edge.cdn 15 A 203.0.113.20
edge.cdn 15 A 203.0.113.21
edge.cdn 15 AAAA 2001:db8::20
a.other A 203.0.113.30
svc AAAA 2001:db8::40
"""
NAMES = ["@", "www", "alias", "far", "long", "a.tree", "svc", "h", "hh", "x.wild", "x.sub", "many"]
NAMES += ["nothing", "ns1", "WwW"]


def knot_configuration(folder: Path) -> str:
    zones = "".join(
        f"  - domain: {name}\n    file: {folder / name}\n    dnssec-signing: {signed}\n"
        "    dnssec-policy: p\n    journal-content: none\n    zonefile-sync: -1\n"
        for name, signed in (("example.com", "on"), ("example.net", "off"))
    )
    return (
        f"server:\n  rundir: {folder}\n  listen: 127.0.0.1@{KNOT}\n  udp-workers: 1\n"
        f"database:\n  storage: {folder}\nlog:\n  - target: stderr\n    any: error\n"
        f"policy:\n  - id: p\n    algorithm: ecdsap256sha256\n    nsec3: on\nzone:\n{zones}"
    )


def unbound_configuration(folder: Path, port: int, minimal: str) -> str:
    stubs = "".join(
        f"stub-zone:\n  name: {zone}\n  stub-addr: 127.0.0.1@{KNOT}\n"
        for zone in ("example.com", "example.net")
    )
    return (
        f'server:\n  directory: {folder}\n  username: ""\n  chroot: ""\n  pidfile: ""\n'
        f"  use-syslog: no\n  interface: 127.0.0.1\n  port: {port}\n  module-config: iterator\n"
        f"  do-not-query-localhost: no\n  minimal-responses: {minimal}\n  num-threads: 1\n"
        f"remote-control:\n  control-enable: no\n{stubs}"
    )


def ask(sock: socket.socket, port: int, query: bytes) -> bytes | None:
    for _ in range(3):
        sock.sendto(query, ("127.0.0.1", port))
        try:
            return sock.recv(65535)
        except TimeoutError:
            continue
    return None


def wait_until_up(sock: socket.socket) -> None:
    deadline = time.monotonic() + 20
    for port in (KNOT, UNBOUND, VERBOSE):
        while bytes([203, 0, 113, 10]) not in (ask(sock, port, m.query("www.example.com")) or b""):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no server on port {port}")
            time.sleep(0.1)


def capture(sock: socket.socket) -> int:
    CORPUS.mkdir(exist_ok=True)
    seen: set[bytes] = set()
    for server, port in (("knot", KNOT), ("unbound", UNBOUND), ("verbose", VERBOSE)):
        for short in NAMES:
            qname = "example.com" if short == "@" else f"{short}.example.com"
            for kind, qtype in TYPES.items():
                for edns, extra in (("", ()), ("-do", (m.opt(do=True),))):
                    answer = ask(sock, port, m.query(qname, qtype, additional=extra))
                    if answer is None or answer in seen or (kind not in ("A", "HTTPS") and edns):
                        continue
                    seen.add(answer)
                    file = CORPUS / f"{server}-{short.replace('@', 'apex')}-{kind}{edns}.bin"
                    file.write_bytes(answer)
    return len(seen)


def main() -> None:
    namespace = Namespace.create("corpus", {})
    try:
        with tempfile.TemporaryDirectory(dir="/run") as name:
            folder = Path(name)
            (folder / "example.com").write_text(ZONE)
            (folder / "example.net").write_text(OTHER)
            (folder / "knot.conf").write_text(knot_configuration(folder))
            (folder / "u1.conf").write_text(unbound_configuration(folder, UNBOUND, "yes"))
            (folder / "u2.conf").write_text(unbound_configuration(folder, VERBOSE, "no"))
            namespace.start(["knotd", "-c", str(folder / "knot.conf")])
            for which in ("u1", "u2"):
                namespace.start(["unbound", "-d", "-p", "-c", str(folder / f"{which}.conf")])
            with namespace.entered():
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with sock:
                sock.settimeout(1.0)
                wait_until_up(sock)
                print(f"{capture(sock)} answers in {CORPUS}")
    finally:
        namespace.close()


if __name__ == "__main__":
    main()
