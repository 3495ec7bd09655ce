"""The worker ends moves of tenants whose process has died: no tenant waits for a command."""

from __future__ import annotations

import logging
import threading

from interop.audit.duty import owner_database
from interop.services import Services
from storage.partitions.moving import recover
from storage.partitions.moving_capture import SCHEMA
from storage.partitions.moving_state import MoveUnderWay

logger = logging.getLogger(__name__)

# Clients of a tenant that was left in the last step wait for longer than this.
LOOK_SECONDS = 3.0


def end_dead_moves(services: Services, stop: threading.Event) -> None:
    """Look for such a move every few seconds, until `stop`."""
    while not stop.wait(LOOK_SECONDS):
        look(services)


def look(services: Services) -> None:
    """Undo or finish a move that has died; needs the owner's login."""
    with services.database.platform_connection() as connection:
        if not connection.execute(
            "SELECT FROM pg_namespace WHERE nspname = %s", (SCHEMA,)
        ).fetchall():
            return
    with owner_database(services) as owner:
        if owner is None:
            return
        try:
            state = recover(owner, patience_seconds=0)
        except MoveUnderWay:
            return
    if state is not None:
        extra = {"tenant_id": str(state.tenant_id), "phase": state.phase}
        logger.warning("dead_move_ended", extra=extra)
