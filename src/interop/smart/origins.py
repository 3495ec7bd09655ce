"""The web origins of a tenant's apps: where the redirect URIs of its clients lead (RFC 6454)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from urllib.parse import urlsplit
from uuid import UUID

import psycopg

from storage.database import Database

logger = logging.getLogger(__name__)

# A client that ended, or is new, counts within this time.
REMEMBER_SECONDS = 30.0
_DEFAULT_PORTS = {"https": 443, "http": 80}
_REDIRECT_URIS = (
    "SELECT DISTINCT unnest(redirect_uris) FROM api_clients WHERE tenant_id = %s"
    " AND status = 'ACTIVE' AND (expires_at IS NULL OR expires_at > now())"
)


def origin_of(url: str) -> str | None:
    """The origin as a browser writes it in `Origin`; None for an app's own scheme."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if parts.scheme not in _DEFAULT_PORTS or not host:
        return None
    shown = f"[{host}]" if ":" in host else host
    is_default = port is None or port == _DEFAULT_PORTS[parts.scheme]
    return f"{parts.scheme}://{shown}" if is_default else f"{parts.scheme}://{shown}:{port}"


class AppOrigins:
    """Which origins are of a tenant's apps; `everywhere` counts for every tenant."""

    def __init__(self, database: Database, everywhere: Iterable[str] = ()) -> None:
        self._database = database
        self._everywhere = frozenset(everywhere)
        self._seen: dict[UUID, tuple[float, frozenset[str]]] = {}

    async def admits(self, tenant_id: UUID, origin: str) -> bool:
        """Whether an app of the tenant runs at this origin; no when that cannot be looked up."""
        if origin in self._everywhere:
            return True
        until, known = self._seen.get(tenant_id, (0.0, frozenset()))
        if until < time.monotonic():
            try:
                known = await self._looked_up(tenant_id)
            except psycopg.Error:
                # The answer itself may say that the database is away; it must get out.
                logger.warning("origins_unknown", extra={"tenant_id": str(tenant_id)})
                return False
            self._seen[tenant_id] = (time.monotonic() + REMEMBER_SECONDS, known)
        return origin in known

    async def _looked_up(self, tenant_id: UUID) -> frozenset[str]:
        async with self._database.async_connection(tenant_id) as connection:
            cursor = await connection.execute(_REDIRECT_URIS, (tenant_id,))
            rows = await cursor.fetchall()
        return frozenset(filter(None, (origin_of(uri) for (uri,) in rows)))
