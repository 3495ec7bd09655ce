"""What a request costs of a rate limit, in units (reliability.md, "Limits").

    read 1     history 10     search 20     write 100

A batch or transaction costs what its entries do, charged when they are known; capabilities, sign-in
and tokens cost nothing, because they have limits of their own.
"""

from __future__ import annotations

READ = 1
HISTORY = 10
SEARCH = 20
WRITE = 100

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# DICOMweb searches end in the name of a level (PS3.18 10.6), all else in a UID or a rendition.
_QIDO = frozenset({"studies", "series", "instances", "changefeed"})
_FREE = frozenset({"metadata", ".well-known"})


def is_safe(method: str, path: str) -> bool:
    """True for a request that changes nothing. FHIR searches by POST as well (http.html#search)."""
    return method in _SAFE or (method == "POST" and path.endswith("/_search"))


def request_cost(method: str, path: str) -> int:
    """Units of a request to `/t/{tenant}/...` or `/api/v1/...`."""
    parts = path.split("/", 6)
    if len(parts) < 4:
        return 0
    if parts[1] == "api":
        return READ if method in _SAFE else WRITE
    door = parts[3]
    if door == "fhir":
        return _fhir(method, parts[5:])
    if door == "dicom-web":
        if method not in _SAFE:
            return WRITE
        return SEARCH if path.rpartition("/")[2] in _QIDO else READ
    if door in ("imaging-objects", "wado"):
        return READ if method in _SAFE else WRITE
    return 0


def _fhir(method: str, rest: list[str]) -> int:
    """`rest` is what follows the base: nothing, or a type and the remaining path in one piece."""
    if not rest or not rest[0]:
        # A batch or transaction is charged by entry, a search over all types here.
        return SEARCH if method in _SAFE else 0
    if rest[0] in _FREE:
        return 0
    tail = rest[1] if len(rest) > 1 else ""
    if method == "POST" and (tail.endswith("_search") or rest[0] == "_search"):
        return SEARCH
    if method not in _SAFE:
        return WRITE
    if rest[0] == "_history" or tail.endswith("_history"):
        return HISTORY
    # A type, an operation, or a type in a compartment.
    if not tail or "$" in tail or ("/" in tail and "/_history" not in tail):
        return SEARCH
    return READ


def entry_cost(method: str, url: str) -> int:
    """Units of one entry of a batch or transaction, by its request."""
    return _fhir(method.upper(), url.partition("?")[0].strip("/").split("/", 1))
