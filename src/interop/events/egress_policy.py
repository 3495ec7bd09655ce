"""Which addresses may be called from here, whoever chose them (security.md F1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 6052: addresses that a translator turns into the IPv4 address in their last four bytes.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class EgressRefused(Exception):
    """The address may not be called from here."""


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """What may be called, and how much of an answer is read."""

    private_networks: tuple[IpNetwork, ...] = ()
    certificate_authorities: Path | None = None  # besides those of the system
    timeout_seconds: float = 10.0
    max_bytes: int = 256 * 1024

    @classmethod
    def parse(cls, private_networks: str, certificate_authorities: Path | None) -> EgressPolicy:
        """From the settings: networks as in '10.1.0.0/16, fd00::/8'. Raises ValueError."""
        names = [name.strip() for name in private_networks.split(",") if name.strip()]
        return cls(tuple(map(ipaddress.ip_network, names)), certificate_authorities)

    def admits(self, address: IpAddress) -> bool:
        """Whether a connection may go there. What is embedded in an address counts too."""
        if any(address in network for network in self.private_networks):
            return True
        if isinstance(address, ipaddress.IPv6Address):
            inner = address.ipv4_mapped or address.sixtofour
            if address.teredo is not None or address in _NAT64:
                return False
            if inner is not None:
                return self.admits(inner)
        return address.is_global and not address.is_multicast

    def admitted(self, found: Iterable[tuple[Any, ...]]) -> list[IpAddress]:
        """The addresses of a name, as getaddrinfo found them; none unless all are admitted.

        A name with one public and one private address is how rebinding begins.
        """
        names = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
        addresses = [ipaddress.ip_address(name) for name in names]
        return addresses if all(map(self.admits, addresses)) else []
