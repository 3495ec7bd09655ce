"""The address that a request really comes from, behind proxies that the operator trusts.

X-Forwarded-For is believed from its right end, and only as far as each hop that wrote it is one
of `trusted_proxies`: anything further left is what the client chose to write.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

    from interop.settings import Settings

# One household or clinic has a /64 of its own; counting single addresses would count nothing.
IPV6_PREFIX = 64


def source_address(request: Request, settings: Settings) -> str | None:
    """The nearest address that is not a trusted proxy."""
    address = request.client.host if request.client else None
    proxies = networks(settings.trusted_proxies)
    if address is None or not proxies:
        return address
    hops = [
        hop.strip()
        for header in request.headers.getlist("x-forwarded-for")
        for hop in header.split(",")
    ]
    while hops and _is_within(address, proxies):
        if not _is_address(hops[-1]):
            break
        address = hops.pop()
    return address


def throttled_unit(address: str | None) -> str:
    """What is slowed down together: an IPv4 address, or the /64 of an IPv6 address."""
    if address is None or not _is_address(address):
        return "unknown"
    parsed = ip_address(address)
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, IPV6_PREFIX), strict=False))


@lru_cache(maxsize=8)
def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read a list of networks such as '10.0.0.0/8, ::1'. Raises ValueError naming a wrong one."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_within(address: str, proxies: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in proxies)
