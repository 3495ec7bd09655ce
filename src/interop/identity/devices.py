"""What a browser says about the device that it runs on, in words for a list of sessions.

Only for people to recognise their own devices by: no decision may rest on a User-Agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

USER_AGENT_LENGTH = 256

# The first that occurs wins; an iPhone also says "like Mac OS X", Android also says "Linux".
_SYSTEMS = (
    ("iPhone", "iOS"),
    ("iPad", "iPadOS"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
# Edge and Opera also say Chrome, Chrome also says Safari.
_BROWSERS = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)


@dataclass(frozen=True, slots=True)
class Device:
    """Where a session was started from."""

    name: str | None
    type: str | None  # DESKTOP, MOBILE, TABLET or OTHER
    operating_system: str | None
    ip_address: str | None
    user_agent: str | None


def device_of(user_agent: str | None, ip_address: str | None) -> Device:
    """Read a User-Agent header."""
    if not user_agent:
        return Device(None, None, None, ip_address, None)
    system = _first(_SYSTEMS, user_agent)
    browser = _first(_BROWSERS, user_agent)
    name = " on ".join(part for part in (browser, system) if part) or None
    return Device(
        name, _type(user_agent, system), system, ip_address, user_agent[:USER_AGENT_LENGTH]
    )


def _first(known: tuple[tuple[str, str], ...], user_agent: str) -> str | None:
    return next((name for mark, name in known if mark in user_agent), None)


def _type(user_agent: str, system: str | None) -> str:
    if system is None:
        return "OTHER"
    if system == "iPadOS" or (system == "Android" and "Mobile" not in user_agent):
        return "TABLET"
    return "MOBILE" if system in ("iOS", "Android") else "DESKTOP"
