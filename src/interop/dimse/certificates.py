"""Certificates of DICOM TLS: names by which they are registered, expiry, and a set for trying out.

A fingerprint is the SHA-256 of the whole certificate (DER) in lower-case hexadecimal digits; a
subject is written as RFC 4514 says, the most specific part first.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

EXPIRES_SOON: Final = timedelta(days=30)
# RFC 9325 4.5: at least 2048; what devices of today understand.
_RSA_BITS: Final = 3072
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
# Names that openssl prints and RFC 4514 does not know.
_OPENSSL_NAMES: Final = {
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "GN": NameOID.GIVEN_NAME,
    "SN": NameOID.SURNAME,
}


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER)."""
    return hashlib.sha256(certificate).hexdigest()


def normal_fingerprint(text: str) -> str:
    """A fingerprint as any tool prints it. Raises ValueError."""
    # `openssl x509 -fingerprint -sha256` prints "sha256 Fingerprint=AB:CD:...".
    plain = text.strip().lower().rpartition("=")[2].removeprefix("sha256:").replace(":", "")
    if not _FINGERPRINT.fullmatch(plain):
        raise ValueError(
            f"fingerprint {text!r}: 64 hexadecimal digits, the SHA-256 of the certificate "
            "(openssl x509 -in FILE -noout -fingerprint -sha256)"
        )
    return plain


def subject(certificate: bytes) -> str | None:
    """The subject of a certificate (DER); None when it cannot be read."""
    try:
        return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
    except ValueError:
        return None


def canonical_subject(text: str) -> str:
    """The subject as `subject` would write it. Raises ValueError."""
    try:
        return x509.Name.from_rfc4514_string(text, _OPENSSL_NAMES).rfc4514_string()
    except ValueError as error:
        raise ValueError(
            f"certificate subject {text!r}: written as RFC 4514 says, e.g. CN=pano-1,O=Clinic "
            "(openssl x509 -in FILE -noout -subject -nameopt RFC2253)"
        ) from error


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file. Raises ValueError and OSError."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} holds no certificate in PEM: {error}") from error


def fingerprint_of_file(path: Path) -> str:
    """The fingerprint of the first certificate of a PEM file. Raises ValueError and OSError."""
    first = read_certificates(path)[0]
    return fingerprint(first.public_bytes(serialization.Encoding.DER))


def validity_problems(path: Path, now: datetime | None = None) -> list[tuple[bool, str]]:
    """(is it invalid now, what to say) for each certificate that is not valid for 30 days more."""
    now = now or datetime.now(UTC)
    found = []
    for certificate in read_certificates(path):
        name = certificate.subject.rfc4514_string()
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now < begins:
            found.append((True, f"{path}: {name} is not valid before {begins:%Y-%m-%d}"))
        elif now >= ends:
            found.append((True, f"{path}: {name} expired on {ends:%Y-%m-%d}"))
        elif ends - now < EXPIRES_SOON:
            found.append((False, f"{path}: {name} expires on {ends:%Y-%m-%d}"))
    return found


# -- for trying out -----------------------------------------------------------------------------

TRIAL_FILES: Final = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")


def write_trial_certificates(folder: Path, names: Iterable[str], days: int) -> list[Path]:
    """Write a CA, and certificates of a server and of a client that it signed.

    The CA's key is forgotten: nobody can sign more with it. Raises FileExistsError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in TRIAL_FILES]
    if existing := [str(path) for path in paths if path.exists()]:
        raise FileExistsError(f"{', '.join(existing)} would be overwritten; name another --out")
    ca_key = _new_key()
    ca_name = _name("interop trial CA")
    ca = _sign(_builder(ca_name, ca_name, ca_key, days, ca=True), ca_key)
    subjects = ["localhost", "127.0.0.1", "::1", socket.gethostname(), *names]
    contents = [ca.public_bytes(serialization.Encoding.PEM)]
    for common_name, alternatives in (("interop", subjects), ("interop trial client", [])):
        key = _new_key()
        builder = _builder(_name(common_name), ca_name, key, days, ca=False)
        # Both uses: the same pair serves peers that call and calls peers.
        builder = builder.add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(_alternatives(alternatives)), critical=False
            )
        contents += [_sign(builder, ca_key).public_bytes(serialization.Encoding.PEM), _pem(key)]
    for path, content in zip(paths, contents, strict=True):
        _write(path, content, is_secret=path.suffix == ".key")
    return paths


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject_name: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey, days: int, *, ca: bool
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject_name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, ca_key: rsa.RSAPrivateKey) -> x509.Certificate:
    return builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
    ).sign(ca_key, hashes.SHA256())


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, *, is_secret: bool) -> None:
    mode = 0o600 if is_secret else 0o644
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
