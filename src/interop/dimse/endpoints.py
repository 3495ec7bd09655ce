"""Where DICOM is listened for: one plain endpoint, one with TLS, or both, as the settings say.

security.md A10: beyond this machine, plain DICOM is off unless a setting says otherwise. Light
enough for the supervisor and `interop doctor`, which never load the listener itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from interop.settings import Settings, is_loopback


class NoEndpoint(ValueError):
    """The settings leave no DICOM listener."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address; `setting` is what an operator changes when the port is taken."""

    setting: str
    host: str
    port: int
    is_tls: bool

    def __str__(self) -> str:
        return f"DICOM{' TLS' if self.is_tls else ''} {self.host}:{self.port}"


def endpoints(settings: Settings) -> list[Endpoint]:
    """The endpoints that are served, plain first. Raises NoEndpoint."""
    found = []
    if is_plain_served(settings):
        found.append(
            Endpoint("INTEROP_DICOM_PORT", settings.dicom_host, settings.dicom_port, False)
        )
    if settings.dicom_tls_certificate is not None:
        host = settings.dicom_tls_host or settings.dicom_host
        found.append(Endpoint("INTEROP_DICOM_TLS_PORT", host, settings.dicom_tls_port, is_tls=True))
    if not found:
        raise NoEndpoint(
            f"nothing would listen for DICOM: plain DICOM is off (INTEROP_DICOM_PLAIN="
            f"{settings.dicom_plain}, INTEROP_DICOM_HOST={settings.dicom_host}) and TLS has no "
            "certificate; set INTEROP_DICOM_TLS_CERTIFICATE, _KEY and _CA, or "
            "INTEROP_DICOM_PLAIN=on where the network itself is protected"
        )
    return found


def is_plain_served(settings: Settings) -> bool:
    """Whether anything listens for plain DICOM."""
    if settings.dicom_plain == "loopback":
        return is_loopback(settings.dicom_host)
    return settings.dicom_plain == "on"
