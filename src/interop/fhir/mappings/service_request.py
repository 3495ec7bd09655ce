"""One lens for all ServiceRequests: planned procedures of a plan, and referrals.

Another request, such as a laboratory order, is stored whole and has no row.
"""

from __future__ import annotations

from interop.fhir.mappings import plan_item, referral
from interop.fhir.mappings.shared_type import SharedLens


def lens(public_url: str | None) -> SharedLens:
    return SharedLens((), (plan_item.part(public_url), referral.part(public_url)))
