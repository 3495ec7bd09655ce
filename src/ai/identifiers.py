"""Names that a retry makes again: idempotency keys and deterministic UIDs.

UIDs are of the form 2.25.<128 bits> (PS3.5 B.2). They are derived from the job's key, so a job
that runs twice makes the same objects and the ingest sees a repeat, never a second result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from uuid import UUID


def idempotency_key(
    tenant_id: UUID,
    study_instance_uid: str,
    sop_instance_uids: Iterable[str],
    model_version_id: UUID,
    bundle_digest: str,
) -> str:
    """The key of one analysis: the same images by the same model are the same job."""
    content = hashlib.sha256("\n".join(sorted(sop_instance_uids)).encode()).hexdigest()
    return _digest(tenant_id, study_instance_uid, content, model_version_id, bundle_digest).hex()


def derived_uid(key: str, *names: object) -> str:
    """A UID that depends on nothing but its arguments."""
    return f"2.25.{int.from_bytes(_digest(key, *names)[:16], 'big')}"


def derived_uuid(key: str, *names: object) -> UUID:
    """A row id that depends on nothing but its arguments."""
    return UUID(bytes=_digest(key, *names)[:16], version=5)


def _digest(*names: object) -> bytes:
    return hashlib.sha256("|".join(map(str, names)).encode()).digest()
