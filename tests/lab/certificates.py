"""The lab's certificate authority, made anew for each lab with the openssl command."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM form: the authority to trust, and one certificate for all of the lab's names."""

    authority: Path
    certificate: Path
    key: Path


def issue(directory: Path, names: Iterable[str], addresses: Iterable[str]) -> Certificates:
    """An authority in `directory` and a certificate of it for the names and addresses."""
    authority, authority_key = directory / "ca.pem", directory / "ca.key"
    certificate, key = directory / "web.pem", directory / "web.key"
    alternatives = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
    _new_certificate(authority, authority_key, "fqdnwall lab authority")
    _new_certificate(
        certificate,
        key,
        "fqdnwall lab web server",
        "-CA",
        str(authority),
        "-CAkey",
        str(authority_key),
        "-addext",
        "subjectAltName=" + ",".join(alternatives),
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    )
    return Certificates(authority, certificate, key)


def _new_certificate(certificate: Path, key: Path, common_name: str, *options: str) -> None:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")
    files = ("-keyout", str(key), "-out", str(certificate))
    command = ("openssl", "req", "-x509", *curve, *files, "-subj", f"/CN={common_name}", *options)
    subprocess.run(command, check=True, capture_output=True)
