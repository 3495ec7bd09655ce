"""The policy's filter over studies: whose images a caller may see.

A study belongs to the record of its patient. Scopes that are narrowed by search parameters are
FHIR's language and open nothing here, so that they never open more than they say.
"""

from __future__ import annotations

from interop.access import Caller, Filter, Letter, decide
from interop.dicom.query.visibility import condition
from interop.errors import Forbidden

__all__ = ["RESOURCE_TYPE", "condition", "permitted"]
RESOURCE_TYPE = "ImagingStudy"


def permitted(caller: Caller, letter: Letter) -> Filter:
    """What the caller may do `letter` to. Raises Forbidden where that is nothing at all.

    Who may not store for the whole organization may not store here: to whom an object belongs
    shows only when it is stored.
    """
    filter_ = decide(caller, letter, RESOURCE_TYPE).require()
    if filter_.is_whole_tenant:
        return filter_
    if letter not in ("r", "s", "d"):
        raise Forbidden("storing instances needs access to the images of the whole organization")
    plain = Filter(tuple(way for way in filter_.ways if not way.constraints))
    if not plain.ways:
        raise Forbidden("a scope with search parameters opens no images; ask for ImagingStudy.rs")
    return plain
