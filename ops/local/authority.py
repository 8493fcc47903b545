"""A throw-away certificate authority, and certificates by it: for a server, for a client, for whoever.

Its own key is in this process alone: when that has ended, nobody signs anything by it any more. Needs `cryptography`.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
YEAR = 365 * DAY


class Pair(NamedTuple):
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates, and keeps them in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._count = 0
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        made = made.add_extension(usage, critical=True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self.file = self._write(f"{name}.crt", made.sign(self._key, hashes.SHA256()))

    def sign(self, *hosts: str, expired: bool = False) -> Pair:
        """A certificate for these names and addresses; without any it is a client's."""
        self._count += 1
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"number {self._count}")])
        made = self._builder(name, key, -30 * DAY if expired else YEAR)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if hosts:
            names = x509.SubjectAlternativeName([_name(host) for host in hosts])
            made = made.add_extension(names, critical=False)
        stem = f"{self.file.stem}-{self._count}"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self._directory / f"{stem}.key").touch(mode=0o600)
        (self._directory / f"{stem}.key").write_bytes(private)
        signed = made.sign(self._key, hashes.SHA256())
        return Pair(self._write(f"{stem}.crt", signed), self._directory / f"{stem}.key")

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, ends: datetime.timedelta = YEAR
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 60 * DAY)
            .not_valid_after(now + ends)
        )

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self._directory / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
