"""The words between the doors and the ingest: where an object came from, what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast
from uuid import UUID

from interop.dicom.failures import Failure

if TYPE_CHECKING:
    from interop.access.principals import Caller

Door = Literal["C-STORE", "STOW-RS", "IMPORT", "AI", "UPLOAD", "QUARANTINE"]
Kind = Literal["stored", "duplicate", "refused", "failed"]
ActorType = Literal["USER", "SYSTEM", "API_CLIENT"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where an object came from, for the transaction log and the audit trail."""

    door: Door
    actor: str
    calling_ae_title: str | None = None
    called_ae_title: str | None = None
    remote_address: str | None = None
    request_id: str | None = None
    actor_type: ActorType = "SYSTEM"
    actor_id: UUID | None = None


def source_of(caller: Caller, door: Door) -> Source:
    """The source of what an authenticated caller brings in."""
    return Source(
        door=door,
        actor=caller.actor_name,
        remote_address=caller.remote_address,
        request_id=caller.request_id,
        actor_type=cast(ActorType, caller.actor_type),
        actor_id=caller.actor_id,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object.

    ``stored`` and ``duplicate`` are successes and durable. ``refused`` means that sending the same
    bytes again will be refused again; ``failed`` means that a repeat may succeed.
    """

    kind: Kind
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    failure: Failure | None = None
    warning: Failure | None = None
    # What breaks PS3.5 in an object that is stored all the same. No C-STORE status says it: there
    # are modalities that take a warning for a failure.
    oddities: tuple[str, ...] = ()

    @property
    def is_success(self) -> bool:
        return self.kind in ("stored", "duplicate")

    @property
    def dicom_status(self) -> int:
        """The Status (0000,0900) of a C-STORE response (PS3.4 B.2.3)."""
        if self.failure is not None:
            return self.failure.dicom_status
        return self.warning.dicom_status if self.warning is not None else 0x0000
