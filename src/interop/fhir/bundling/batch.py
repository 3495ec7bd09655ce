"""A batch: each entry judged by itself, none of them keeping another from being done.

R4 http.html#transaction. Entries are processed in the order of a transaction, so that the same
Bundle reads what it has written.
"""

from __future__ import annotations

from starlette.requests import Request

from interop.errors import ServerError
from interop.fhir import json
from interop.fhir.bundling.dispatch import Reply, dispatch
from interop.fhir.bundling.entries import RequestBundle, at_entry
from interop.fhir.outcomes import issues_of, operation_outcome


async def run_batch(request: Request, bundle: RequestBundle) -> bytes:
    """The batch-response, its entries in the order of the batch."""
    replies: dict[int, Reply] = {}
    for entry in bundle.in_order():
        try:
            with at_entry(entry):
                replies[entry.index] = await dispatch(request, entry)
        except ServerError as error:
            outcome = operation_outcome(issues_of(error))
            replies[entry.index] = Reply(error.http_status, {}, outcome)
    entries = [replies[entry.index].entry() for entry in bundle.entries]
    return response_bundle("batch-response", entries)


def response_bundle(type_: str, entries: list[dict[str, object]]) -> bytes:
    """A Bundle of answers."""
    bundle: dict[str, object] = {"resourceType": "Bundle", "type": type_}
    if entries:
        bundle["entry"] = entries
    return json.dumps(bundle)
