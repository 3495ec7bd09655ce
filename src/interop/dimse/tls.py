"""DICOM TLS by the BCP 195 RFC 8996, 9325 profile (PS3.15 B.12), for both roles.

TLS 1.3, and TLS 1.2 with ephemeral keys and authenticated encryption only: no older version, no
RSA key exchange, no CBC, 3DES or RC4 (security.md A10). What a peer must show, and which files
hold our side, is in the settings.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from interop.dimse.certificates import fingerprint
from interop.settings import Settings

_Context = TypeVar("_Context", bound=ssl.SSLContext)

logger = logging.getLogger(__name__)

# RFC 9325 4.2; TLS 1.3 has no other than these kinds. SECLEVEL=2: 112 bits, no SHA-1 signatures.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
# How often the files are looked at. A pair of which one file is new yet is tried again then.
_LOOK_SECONDS: Final = 1.0


class TlsConfigurationError(ValueError):
    """A certificate, key or CA bundle cannot be used; the message names the setting."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What the settings say of DICOM TLS."""

    certificate: Path | None
    key: Path | None
    ca: Path | None
    is_client_certificate_required: bool = True

    @classmethod
    def of(cls, settings: Settings) -> TlsFiles:
        return cls(
            settings.dicom_tls_certificate,
            settings.dicom_tls_key,
            settings.dicom_tls_ca,
            settings.dicom_tls_client_certificate == "required",
        )

    def server_context(self) -> ssl.SSLContext:
        """A context for peers that call. Raises TlsConfigurationError."""
        context = _profile(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        if self.certificate is None:
            raise TlsConfigurationError("INTEROP_DICOM_TLS_CERTIFICATE is not set")
        self._load_pair(context)
        if self.ca is not None:
            self._load_ca(context)
            required = self.is_client_certificate_required
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        elif self.is_client_certificate_required:
            raise TlsConfigurationError(
                "INTEROP_DICOM_TLS_CA is not set: name a PEM file with the certificates that "
                "clients' certificates lead to, or set INTEROP_DICOM_TLS_CLIENT_CERTIFICATE="
                "optional"
            )
        # Each association is checked against the files of today: a resumed session would not be.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        return context

    def client_context(self, pinned: frozenset[str] = frozenset()) -> CallingContext:
        """A context for calling a peer, which shows a certificate of `pinned` if that is not empty.

        Without pins the certificate must be for the host's name. Raises TlsConfigurationError.
        """
        context = _profile(CallingContext(ssl.PROTOCOL_TLS_CLIENT))
        if self.certificate is not None:
            self._load_pair(context)
        if self.ca is not None:
            self._load_ca(context)
        else:
            context.load_default_certs()
        context.pinned = pinned
        context.check_hostname = not pinned
        return context

    def _load_pair(self, context: ssl.SSLContext) -> None:
        if self.key is None:
            raise TlsConfigurationError(
                "INTEROP_DICOM_TLS_KEY is not set; it names the PEM file of the private key of "
                f"INTEROP_DICOM_TLS_CERTIFICATE ({self.certificate})"
            )
        assert self.certificate is not None
        try:
            context.load_cert_chain(self.certificate, self.key, _no_password)
        except (OSError, ValueError) as error:
            raise TlsConfigurationError(
                f"INTEROP_DICOM_TLS_CERTIFICATE={self.certificate} with INTEROP_DICOM_TLS_KEY="
                f"{self.key}: {error}; both are PEM files, the key not encrypted, and of one pair"
            ) from error

    def _load_ca(self, context: ssl.SSLContext) -> None:
        try:
            context.load_verify_locations(self.ca)
        except (OSError, ValueError) as error:
            raise TlsConfigurationError(
                f"INTEROP_DICOM_TLS_CA={self.ca}: {error}; a PEM file with CA certificates"
            ) from error

    def stamps(self) -> tuple[object, ...]:
        """What changes when a file is replaced or written to."""
        return tuple(_stamp(path) for path in (self.certificate, self.key, self.ca) if path)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _profile(context: _Context) -> _Context:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


def _no_password() -> str:
    # OpenSSL would otherwise ask on the terminal, and a server has none.
    raise ValueError("the private key is encrypted")


class _CallingSocket(ssl.SSLSocket):
    """Refuses a peer whose certificate is not one of the registered ones."""

    def do_handshake(self, block: bool = False) -> None:
        context = self.context
        assert isinstance(context, CallingContext)
        try:
            super().do_handshake(block)
            shown = fingerprint(self.getpeercert(binary_form=True) or b"")
            if context.pinned and shown not in context.pinned:
                raise ssl.SSLCertVerificationError(
                    ssl.SSL_ERROR_SSL,
                    f"the certificate sha256:{shown} is not registered for the peer",
                )
        except OSError as error:
            context.failure = str(error)
            raise


class CallingContext(ssl.SSLContext):
    """The context of one call; `failure` is why its handshake failed, for those who report it."""

    sslsocket_class = _CallingSocket
    pinned: frozenset[str] = frozenset()
    failure: str | None = None


class ReloadingContext:
    """The server context of files that may be replaced while the server runs.

    Associations that are open keep theirs. While new files cannot be used the old context serves
    on, and the log says why.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._stamps = files.stamps()
        self._refused: tuple[object, ...] | None = None
        self._context = files.server_context()
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def __call__(self) -> ssl.SSLContext:
        """The context for a connection that comes now."""
        with self._lock:
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + _LOOK_SECONDS
                self._reload()
            return self._context

    def _reload(self) -> None:
        stamps = self._files.stamps()
        if stamps == self._stamps:
            return
        try:
            self._context = self._files.server_context()
        except TlsConfigurationError as error:
            if stamps != self._refused:
                logger.error("tls_files_not_usable", extra={"detail": str(error)})
                self._refused = stamps
            return
        self._stamps = stamps
        logger.info("tls_files_read_again")


def describe(connection: ssl.SSLSocket) -> dict[str, Any]:
    """Version and cipher suite, for the audit."""
    cipher = connection.cipher()
    return {"tls_version": connection.version(), "cipher_suite": cipher[0] if cipher else None}
