"""Outgoing HTTP, the only place that opens it (security.md F1).

An address that somebody else may choose (a client's jwks_uri, a webhook) can point at this
machine's own network. So: https only, the name is resolved once, every address it has must be
public, the connection goes to an address that was checked, redirects are not followed, size and
time are bounded. Networks of the operator's own can be allowed by a setting.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore

from interop.events.egress_policy import EgressPolicy, EgressRefused, IpAddress

__all__ = [
    "Answer", "EgressFailed", "EgressPolicy", "EgressRefused", "check_url", "request",
]  # fmt: skip
MAX_URL = 2048


class EgressFailed(Exception):
    """The address did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def check_url(url: str) -> None:
    """Raise EgressRefused for a URL that no policy admits."""
    if len(url) > MAX_URL or not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise EgressRefused(f"a URL has at most {MAX_URL} printable ASCII characters, no spaces")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise EgressRefused("the URL's host is none") from error
    if parts.scheme != "https":
        raise EgressRefused(f"{parts.scheme or 'no scheme'!r}: only https is called")
    if parts.username is not None or parts.password is not None:
        raise EgressRefused("a URL with a user name or password is not called")
    if not parts.hostname or parts.hostname.endswith("."):
        raise EgressRefused("the URL needs a host name without a dot at the end")
    try:
        _ = parts.port
    except ValueError as error:
        raise EgressRefused("the URL's port is not a number from 0 to 65535") from error


async def request(
    method: str,
    url: str,
    policy: EgressPolicy,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | AsyncIterator[bytes] | None = None,
) -> Answer:
    """Send one request. Raises EgressRefused before, EgressFailed after a connection was tried.

    A body that is streamed needs its Content-Length among the headers.
    """
    check_url(url)
    try:
        async with asyncio.timeout(policy.timeout_seconds):
            return await _exchange(method, url, policy, [*(headers or {}).items()], content)
    except TimeoutError as error:
        raise EgressFailed(f"no full answer within {policy.timeout_seconds:g} s") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise EgressFailed(f"{type(error).__name__}: {error}") from error
    except (OSError, ssl.SSLError, UnicodeError) as error:
        raise EgressFailed(f"{type(error).__name__}: {error}") from error


async def _exchange(
    method: str,
    url: str,
    policy: EgressPolicy,
    headers: list[tuple[bytes | str, bytes | str]],
    content: bytes | AsyncIterator[bytes] | None,
) -> Answer:
    pool = httpcore.AsyncConnectionPool(
        ssl_context=_ssl_context(policy),
        max_connections=1,
        http2=False,
        network_backend=_CheckedNetwork(policy),
    )
    async with pool, pool.stream(method, url, headers=headers, content=content) as response:
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > policy.max_bytes:
                raise EgressFailed(f"the answer has more than {policy.max_bytes} bytes")
        named = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers}
        return Answer(response.status, named, bytes(body))


def _ssl_context(policy: EgressPolicy) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if policy.certificate_authorities is not None:
        context.load_verify_locations(policy.certificate_authorities)
    return context


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that the policy admits; TLS still verifies the name."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        address = await self._resolved(host, port)
        return await self._inner.connect_tcp(
            str(address), port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise EgressRefused("sockets of this machine are not called")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _resolved(self, host: str, port: int) -> IpAddress:
        """The first address of a name all of whose addresses are admitted."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = self._policy.admitted(found)
        if not addresses:
            raise EgressRefused(
                f"{host} has an address that is not public; INTEROP_EGRESS_PRIVATE_NETWORKS "
                "can allow networks of your own"
            )
        return addresses[0]
