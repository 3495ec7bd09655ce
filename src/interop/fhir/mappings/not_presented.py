"""The tables that no FHIR resource shows, and why; and those that a resource shows without a lens.

Together with `storage.schema.presentation` every table of the schema is in exactly one place, which
a test holds; `tools/write_fhir_mappings_doc.py` makes a page of all three.
"""

from __future__ import annotations

from typing import Final

# The log is rendered row by row as it is asked for (audit_event.py).
LOGS: Final = {"audit_events": "AuditEvent", "phi_access_logs": "AuditEvent"}

_PLATFORM: Final = "the platform's business with the organization, not the organization's records"
_RIGHTS: Final = "rights and their administration (/api/v1); what a member is shows as a role"
_SIGN_IN: Final = "secrets and states of signing in"
_AUTHORIZATION: Final = "states and secrets of the authorization server (SMART)"
_READ_MODEL: Final = "the read model itself: it is what FHIR is served from"
_RESEARCH: Final = "de-identified research, kept apart from the records that it came from"
_AI: Final = "how models are rolled out and asked; what they find is presented"
_INTEGRATION: Final = "configuration and log of connections, with secrets; for operators (/api/v1)"
_WORK: Final = "states of the server's own work"
_WORKFLOW: Final = "the workflow engine's state; the record that a case is about is presented"

NOT_PRESENTED: Final[dict[str, str]] = {
    "tenant_closure": "the tree of organizations, derived; who may act in whose name",
    "tenant_grants": _RIGHTS,
    "tenant_deletions": "the deletion of an organization and its certificate, for the platform",
    "tenant_branding": "colours and templates of the console",
    "subscription_plans": _PLATFORM,
    "tenant_subscriptions": _PLATFORM,
    "tenant_features": _PLATFORM,
    "tenant_quotas": _PLATFORM,
    "tenant_storage_usage": _PLATFORM,
    "tenant_billing_accounts": _PLATFORM,
    "usage_meters": _PLATFORM,
    "usage_meter_readings": _PLATFORM,
    "rate_limit_buckets": _WORK,
    "permissions": _RIGHTS,
    "role_permissions": _RIGHTS,
    "api_clients": "apps and services with their secrets; AuditEvent names them as agents",
    "user_auth_identities": _SIGN_IN,
    "sessions": _SIGN_IN,
    "signing_keys": _SIGN_IN,
    "identity_providers": _SIGN_IN,
    "sign_in_challenges": _SIGN_IN,
    "sign_in_throttles": _SIGN_IN,
    "invitations": _SIGN_IN,
    "invitation_roles": _SIGN_IN,
    "authorization_grants": _AUTHORIZATION,
    "authorization_codes": _AUTHORIZATION,
    "refresh_tokens": _AUTHORIZATION,
    "revoked_access_tokens": _AUTHORIZATION,
    "launch_contexts": _AUTHORIZATION,
    "client_assertions": _AUTHORIZATION,
    "application_consents": _AUTHORIZATION,
    "emergency_accesses": "who broke the glass and why: AuditEvent tells of it",
    "audit_seals": "signatures over the log, for who checks it (interop audit verify)",
    "data_retention_policies": "how long classes of data are kept; no resource of R4 says it",
    "legal_holds": "what must not be deleted and why; hidden from whom it concerns",
    "data_keys": "keys",
    "platform_data_keys": "keys",
    "study_activity": _WORK,
    "outbox": _WORK,
    "fhir_async_requests": _WORK,
    "quarantined_objects": "what was refused at the DICOM door: not a record until it is accepted",
    "imaging_changes": "the change feed of DICOMweb: what changed is presented itself",
    "imaging_change_feeds": _WORK,
    "imaging_name_words": "words of the names that studies have, for searching them",
    "dicom_query_tags": "which attributes of images are searchable, for operators (/api/v1)",
    "dicom_query_tag_values": "an index of what stored objects say themselves",
    "dicom_query_tag_errors": _WORK,
    "removed_objects": "bytes that were deleted and wait to be erased",
    "ai_model_deployments": _AI,
    "ai_routing_rules": _AI,
    "ai_routing_decisions": _AI,
    "ai_outcome_links": "what a finding turned out to be, to measure models by; the visit or the"
    " procedure that told is presented",
    "external_systems": _INTEGRATION,
    "tenant_integrations": _INTEGRATION,
    "integration_credentials": _INTEGRATION,
    "sync_jobs": _INTEGRATION,
    "sync_job_logs": _INTEGRATION,
    "dicom_application_entities": "peers of DIMSE, which R4's Endpoint has no connection type for",
    "dicom_transactions": _INTEGRATION,
    "dicom_web_destinations": _INTEGRATION,
    "dicom_routing_rules": _INTEGRATION,
    "dicom_deliveries": "the queue of what is sent on; what was sent shows as AuditEvent",
    "storage_commitments": _WORK,
    "storage_commitment_references": _WORK,
    "webhook_events": "the queue of webhooks; the resources that they tell of are presented",
    "webhook_deliveries": "the queue of webhooks; the resources that they tell of are presented",
    "notifications": "a queue of notices to users and patients, each a copy of what it is about",
    "workflow_instances": _WORKFLOW,
    "workflow_transitions": _WORKFLOW,
    "research_datasets": _RESEARCH,
    "research_dataset_members": _RESEARCH,
    "research_access_logs": _RESEARCH,
    "fhir_resources": _READ_MODEL,
    "fhir_history": _READ_MODEL,
    "fhir_pending": _READ_MODEL,
    "fhir_search_token": _READ_MODEL,
    "fhir_search_string": _READ_MODEL,
    "fhir_search_text": _READ_MODEL,
    "fhir_search_gram": _READ_MODEL,
    "fhir_search_reference": _READ_MODEL,
    "fhir_search_date": _READ_MODEL,
    "fhir_search_number": _READ_MODEL,
    "fhir_search_quantity": _READ_MODEL,
    "fhir_search_uri": _READ_MODEL,
    "fhir_search_parameters": _READ_MODEL,
    "fhir_search_epochs": _READ_MODEL,
}
