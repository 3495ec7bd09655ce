"""The one settings object, read once from the environment and passed down.

Every setting is `INTEROP_` + its name; `INTEROP_X_FILE` names a file that holds the value (for
secrets mounted as files). `interop doctor` and docs/settings.md print from this declaration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "INTEROP_"
# As browsers serialize it (RFC 6454 6.1): never a path, and no port that goes without saying.
_ORIGIN = re.compile(
    r"(?:https://(?!.*:443$)|http://(?!.*:80$))(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?"
)


class Settings(BaseSettings):
    """What an operator can decide. Frozen: a setting never changes after it was read."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    data_dir: Path = Field(
        Path("./data"), description="Folder of the embedded database, local objects and spool."
    )
    database_url: str | None = Field(
        None,
        description="PostgreSQL 15 or later to use instead of the embedded one; the login must be "
        "able to create the role interop_app, or be granted it.",
    )
    database_owner_url: str | None = Field(
        None,
        description="Login that migrates, when DATABASE_URL's may not; default: DATABASE_URL.",
    )
    master_key: SecretStr | None = Field(
        None,
        description="Base64 of 32 random bytes that seal secrets in the database, the same on "
        "every machine; default: DATA_DIR/master.key, made at the first start.",
    )
    former_master_key: SecretStr | None = Field(
        None,
        description="The master key before the present one, until `interop keys rewrap` has run.",
    )
    kms_key_id: str | None = Field(
        None,
        description="AWS KMS key (id, ARN or alias) that wraps the data keys of the especially "
        "sensitive columns, instead of the master key; region and credentials as boto3 finds them.",
    )
    kms_endpoint_url: str | None = Field(
        None, description="Address of the KMS service, where it is not the region's own."
    )
    objects_url: str | None = Field(
        None,
        description="Object store: file:///folder or s3://bucket/prefix?endpoint_url=...; "
        "default: DATA_DIR/objects.",
    )
    http_host: str = Field("127.0.0.1", description="Address of the HTTP listener.")
    http_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8080, description="Port of the HTTP listener."
    )
    http_workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="HTTP worker processes."
    )
    dicom_host: str = Field("127.0.0.1", description="Address of the DIMSE listener.")
    dicom_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        11112, description="Port of the DIMSE listener (plain)."
    )
    dicom_plain: str = Field(
        "loopback",
        pattern="^(loopback|on|off)$",
        description="Plain DICOM, which anybody on the way can read: loopback: only where "
        "DICOM_HOST is of this machine; on: wherever it is; off: never.",
    )
    dicom_tls_host: str | None = Field(
        None, description="Address of the DICOM TLS listener; default: DICOM_HOST."
    )
    dicom_tls_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        2762, description="Port of the DICOM TLS listener; served once certificates are set."
    )
    dicom_tls_certificate: Path | None = Field(
        None,
        description="PEM file: our certificate and the intermediate ones above it, shown to peers "
        "that call and that are called. Files that change are read again within seconds.",
    )
    dicom_tls_key: Path | None = Field(
        None, description="PEM file: the private key of DICOM_TLS_CERTIFICATE, not encrypted."
    )
    dicom_tls_ca: Path | None = Field(
        None, description="PEM file: the certificates that peers' certificates must lead to."
    )
    dicom_tls_client_certificate: str = Field(
        "required",
        pattern="^(required|optional)$",
        description="Whether a peer that calls must show a certificate of its own.",
    )
    dicom_workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="DIMSE worker processes on one port (SO_REUSEPORT)."
    )
    dicom_peer_networks: str = Field(
        "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7",
        description="Networks that are not public and in which DICOM peers that organizations "
        "register may be called; this machine too where DICOM_HOST is of this machine.",
    )
    public_url: str | None = Field(
        None, description="URL under which clients reach the server; default: the HTTP listener's."
    )
    default_quiet_window_seconds: float | None = Field(
        None,
        ge=0,
        description="Seconds without a new instance after which a study counts as complete, for "
        "every modality; default: 5, CBCT 20.",
    )
    max_object_bytes: int = Field(
        4 << 30, ge=1 << 20, description="Largest DICOM object accepted, in bytes."
    )
    picture_cache_bytes: int = Field(
        256 << 20,
        ge=0,
        description="Disk space for rendered images and thumbnails that may be asked for again, "
        "in bytes; 0: none are kept.",
    )
    max_request_bytes: int = Field(
        10 << 30, ge=1 << 20, description="Largest STOW-RS request accepted, in bytes."
    )
    max_fhir_bytes: int = Field(
        10 << 20, ge=1 << 10, description="Largest FHIR resource accepted, in bytes."
    )
    redis_url: str | None = Field(
        None,
        description="Redis that shares rate limits between machines, redis://host:6379/0; needs "
        "the extra dental-interop[redis]; default: PostgreSQL shares them.",
    )
    token_seconds: int = Field(
        3600, ge=60, le=86400, description="Lifetime of an access token in seconds."
    )
    session_seconds: int = Field(
        43200,
        ge=300,
        le=604800,
        description="Seconds after which a browser session ends, whatever its user does.",
    )
    session_idle_seconds: int = Field(
        1800,
        ge=60,
        le=86400,
        description="Seconds without a request after which a browser session ends.",
    )
    invitation_seconds: int = Field(
        604800, ge=600, le=2592000, description="Seconds for which an invitation link is good."
    )
    trusted_proxies: str = Field(
        "",
        description="Networks of reverse proxies whose X-Forwarded-For is believed, separated by "
        "commas, e.g. 10.0.0.0/8,::1; default: none, the connection's own address counts.",
    )
    cors_origins: str = Field(
        "",
        description="Origins of browser apps that may read what any tenant's tokens open, "
        "separated by commas, e.g. https://viewer.example.org; besides those that the redirect "
        "URIs of each tenant's own clients lead to.",
    )
    offline_access_days: int = Field(
        180, ge=1, le=3650, description="Days after which an app with offline access asks again."
    )
    refresh_token_days: int = Field(
        30, ge=1, le=3650, description="Days after which a refresh token that was not used ends."
    )
    egress_private_networks: str = Field(
        "",
        description="Networks that are not public and yet may be called (keys of clients, "
        "webhooks), e.g. 10.1.0.0/16, fd00::/8.",
    )
    egress_ca_file: Path | None = Field(
        None,
        description="PEM file of certificate authorities for outgoing calls, besides the system's.",
    )
    viewer_dir: Path | None = Field(
        None,
        description="Folder of the viewer that `make viewer` brings; default: DATA_DIR/viewer.",
    )
    viewer_notice: str = Field(
        "always",
        pattern="^(always|never)$",
        description="Whether the viewer says that it is for investigational use only; it is no "
        "medical device, and who says never takes that decision.",
    )
    durability: str = Field(
        "full",
        pattern="^(full|relaxed)$",
        description="full: what is acknowledged was synced to disk, objects and rows; relaxed: the "
        "disk is not waited for, and a power cut may take the last moments.",
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Log level.")

    @field_validator("dicom_tls_certificate", "dicom_tls_key", "dicom_tls_ca")
    @classmethod
    def _is_a_path(cls, value: Path | None) -> Path | None:
        if value is not None and "-----BEGIN" in str(value):
            raise ValueError("the name of a PEM file is meant, not its content")
        return value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("trusted_proxies", "egress_private_networks", "dicom_peer_networks")
    @classmethod
    def _networks(cls, value: str) -> str:
        for part in filter(str.strip, value.split(",")):
            ip_network(part.strip())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for part in _parts(value):
            if not _ORIGIN.fullmatch(part):
                raise ValueError(
                    f"{part!r} is not an origin as browsers send it: scheme, host in lower case "
                    "and a port that is not the scheme's own, e.g. https://viewer.example.org:8443"
                )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FromFiles(settings_cls)

    @property
    def effective_public_url(self) -> str:
        """The base URL without a trailing slash."""
        if self.public_url:
            return self.public_url.rstrip("/")
        host = "127.0.0.1" if self.http_host in ("0.0.0.0", "::") else self.http_host  # noqa: S104
        return f"http://{host}:{self.http_port}"

    @property
    def browser_origins(self) -> list[str]:
        """The origins in `cors_origins`."""
        return _parts(self.cors_origins)

    @property
    def effective_objects_url(self) -> str:
        return self.objects_url or (self.data_dir / "objects").as_uri()

    @property
    def effective_viewer_dir(self) -> Path:
        return (self.viewer_dir or self.data_dir / "viewer").expanduser().absolute()

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def picture_dir(self) -> Path:
        return self.data_dir / "cache" / "pictures"

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for the processes of the supervisor."""
        values = self.model_dump(exclude_none=True)
        return {PREFIX + name.upper(): _plain(value) for name, value in values.items()}


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class _FromFiles(PydanticBaseSettingsSource):
    """`INTEROP_X_FILE=/path`: the setting is the file's text without the last line break."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE")
        if path is None:
            return None, field_name, False
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n"), field_name, False

    def __call__(self) -> Mapping[str, Any]:  # type: ignore[override]
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    return host == "localhost" or host.startswith("127.") or host == "::1"
