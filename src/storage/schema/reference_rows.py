"""The rows every installation begins with: permissions, role templates, meters, system types.

Ids follow from the codes, so that two installations agree and a repeated insert changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid5

NAMESPACE = UUID("b5cdd0de-0f1f-5d0f-9d7a-0c8c9c4f3f10")

PERMISSIONS = {
    "view_patient": "Read patient records",
    "edit_patient": "Create and change patient records",
    "view_imaging": "Read images and studies",
    "upload_imaging": "Add images and studies",
    "run_ai_analysis": "Start an AI analysis",
    "review_ai_findings": "Confirm, reject or edit AI findings",
    "manage_billing": "Read and change invoices, fees and claims",
    "manage_users": "Invite users and give roles",
    "manage_settings": "Change the settings of the organization",
    "view_audit_log": "Read the audit log",
    "export_data": "Export data of many patients",
    "use_research_data": "Read de-identified data sets",
    "break_glass": "Open a patient's record in an emergency",
}

ROLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "TENANT_ADMIN": ("Administrator of the organization", tuple(PERMISSIONS)),
    "CLINICIAN": (
        "Clinician",
        (
            "view_patient",
            "edit_patient",
            "view_imaging",
            "upload_imaging",
            "run_ai_analysis",
            "review_ai_findings",
            "break_glass",
        ),
    ),
    "READ_ONLY_AUDITOR": ("Auditor", ("view_patient", "view_imaging", "view_audit_log")),
    "DATA_SCIENTIST": ("Data scientist", ("use_research_data",)),
    # Given with the resource scope SELF: the own record.
    "PATIENT": ("Patient", ("view_patient", "view_imaging")),
}

USAGE_METERS = {
    "AI_INFERENCES": ("AI inferences", "count", "SUM"),
    "STORAGE_GB": ("Storage", "GB", "MAX"),
    "ACTIVE_USERS": ("Active users", "count", "MAX"),
    "API_CALLS": ("API calls", "count", "SUM"),
}

SYSTEM_TYPES = {
    "PMS": "Practice management system",
    "EHR": "Electronic health record",
    "PACS": "Image archive",
    "LIMS": "Laboratory system",
    "PAYMENT_GATEWAY": "Payment gateway",
    "INSURANCE_CLEARINGHOUSE": "Insurance clearinghouse",
}


def reference_id(table: str, code: str) -> UUID:
    """The id of a reference row."""
    return uuid5(NAMESPACE, f"{table}/{code}")


def rows() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Tables with their rows, parents first."""
    yield (
        "permissions",
        [
            {"id": reference_id("permissions", code), "code": code, "description": text}
            for code, text in PERMISSIONS.items()
        ],
    )
    yield (
        "roles",
        [
            {"id": reference_id("roles", code), "code": code, "name": name, "is_system": True}
            for code, (name, _) in ROLES.items()
        ],
    )
    yield (
        "role_permissions",
        [
            {
                "id": reference_id("role_permissions", f"{role}/{permission}"),
                "role_id": reference_id("roles", role),
                "permission_id": reference_id("permissions", permission),
            }
            for role, (_, permissions) in ROLES.items()
            for permission in permissions
        ],
    )
    yield (
        "usage_meters",
        [
            {
                "id": reference_id("usage_meters", code),
                "code": code,
                "name": name,
                "unit": unit,
                "aggregation": aggregation,
            }
            for code, (name, unit, aggregation) in USAGE_METERS.items()
        ],
    )
    yield (
        "external_systems",
        [
            {"id": reference_id("external_systems", code), "system_type": code, "name": name}
            for code, name in SYSTEM_TYPES.items()
        ],
    )
