"""What data-schema.md names: tables, fields and enum values, section by section.

Written from the document, not from the models, so that a test can hold one against the other.
"""

from __future__ import annotations

# Tables of sections I-VI, VIII, IX and XI. VII is the warehouse.
TABLES = """
tenants tenant_settings tenant_branding subscription_plans tenant_subscriptions tenant_features
tenant_quotas locations teams team_members
users user_auth_identities user_tenants roles permissions role_permissions user_roles sessions
api_clients audit_events phi_access_logs consents data_retention_policies legal_holds
patients patient_identifiers patient_addresses patient_insurance_policies patient_relationships
patient_conditions patient_medications patient_allergies patient_social_history encounters
encounter_diagnoses clinical_notes vital_signs tooth_chart_snapshots perio_measurements
treatment_plans treatment_plan_items procedures procedure_materials clinical_outcomes
imaging_studies imaging_series imaging_objects image_annotations ai_models ai_model_versions
ai_model_deployments ai_inference_jobs ai_predictions ai_review_events ai_outcome_links
external_systems tenant_integrations integration_credentials sync_jobs sync_job_logs fhir_resources
dicom_transactions webhook_subscriptions webhook_events webhook_deliveries
tenant_billing_accounts invoices invoice_line_items usage_meters usage_meter_readings
procedure_catalog fee_schedules claims claim_lines claim_status_events
knowledge_documents knowledge_versions knowledge_localizations conversations
conversation_participants messages notifications documents referrals
code_systems code_values drug_reference material_reference equipment_reference
custom_field_definitions custom_field_values workflows workflow_instances workflow_transitions
research_datasets research_dataset_members research_access_logs
""".split()

FIELDS = {
    "tenants": "id name type parent_tenant_id primary_region partition_strategy status",
    "tenant_subscriptions": "tenant_id plan_id start_at end_at status billing_cycle is_trial"
    " trial_ends_at auto_renew",
    "tenant_quotas": "max_users max_storage_bytes max_ai_inferences_per_month"
    " api_rate_limit_per_minute",
    "locations": "tenant_id",
    "team_members": "user_id team_id location_id",
    "users": "id email full_name preferred_locale status",
    "user_auth_identities": "user_id password_hash mfa_secret_encrypted recovery_code_hashes"
    " recovery_email",
    "user_tenants": "user_id tenant_id default_location_id user_type",
    "role_permissions": "role_id permission_id",
    "user_roles": "user_id role_id tenant_id location_id team_id resource_scope valid_from"
    " valid_until",
    "sessions": "device_name device_type ip_address user_agent last_activity_at",
    "api_clients": "client_id client_secret_hash tenant_id scopes rate_limit_per_minute",
    "audit_events": "id tenant_id user_id actor_type event_type resource_type resource_id"
    " timestamp request_id ip_address user_agent metadata",
    "consents": "subject_type subject_id tenant_id consent_type scope granted_at revoked_at source"
    " document_uri",
    "data_retention_policies": "tenant_id data_class min_years max_years archival_strategy",
    "legal_holds": "entity_type entity_id released_at",
    "patients": "id tenant_id primary_location_id first_name last_name dob sex_at_birth"
    " gender_identity contact_email phone_mobile phone_home preferred_language"
    " preferred_contact_method status",
    "patient_identifiers": "patient_id system value is_primary",
    "patient_insurance_policies": "patient_id payer_id plan_name policy_number group_number"
    " coverage_start coverage_end priority",
    "patient_relationships": "patient_id related_patient_id external_contact_id relationship_type",
    "patient_medications": "dosage start_date stop_date prescriber_id",
    "encounters": "id tenant_id patient_id location_id provider_id scheduled_start_at check_in_at"
    " check_out_at encounter_type status",
    "encounter_diagnoses": "encounter_id code_system code",
    "clinical_notes": "id encounter_id author_id note_type content signed_at amended_at",
    "clinical_note_amendments": "note_id version previous_content reason amended_by_id amended_at",
    "vital_signs": "encounter_id measured_at systolic_mmhg diastolic_mmhg heart_rate_bpm bmi",
    "tooth_chart_snapshots": "id tenant_id patient_id encounter_id created_at chart_json",
    "perio_measurements": "id tenant_id patient_id encounter_id tooth_number site pocket_depth_mm"
    " gingival_margin_mm bleeding_on_probing mobility_grade furcation_involvement",
    "treatment_plans": "id tenant_id patient_id created_by_id status total_estimated_cost"
    " estimated_insurance_coverage notes",
    "treatment_plan_items": "plan_id cdt_code tooth_number surface phase sequence_order"
    " estimated_fee estimated_patient_portion",
    "procedures": "id tenant_id patient_id encounter_id provider_id cdt_code tooth_number surface"
    " start_at end_at status notes",
    "procedure_materials": "procedure_id material_id",
    "clinical_outcomes": "procedure_id encounter_id outcome_score complication is_success",
    "imaging_studies": "id tenant_id patient_id encounter_id study_uid modality body_part"
    " acquisition_datetime referring_provider_id performing_device_id source_system",
    "imaging_objects": "id study_id series_id sop_instance_uid object_type storage_uri hash"
    " byte_size width height depth_slices is_original processing_pipeline",
    "image_annotations": "id tenant_id imaging_object_id source_type author_user_id annotation_type"
    " geometry label_code confidence version created_at",
    "ai_models": "id name description domain vendor regulatory_class",
    "ai_model_versions": "id model_id version_tag artifact_uri input_types output_types"
    " performance_metrics validated_on validation_summary_uri sbom_uri",
    "ai_model_deployments": "id tenant_id model_version_id status rollout_strategy created_at"
    " created_by_id",
    "ai_inference_jobs": "id tenant_id model_version_id input_type input_ref_id status"
    " requested_by_user_id started_at completed_at compute_env error_details",
    "ai_predictions": "id job_id tenant_id patient_id imaging_object_id prediction_type code"
    " confidence severity roi_ref raw_output",
    "ai_review_events": "id prediction_id reviewer_id review_action reason_code comment created_at"
    " use_for_training",
    "ai_outcome_links": "prediction_id encounter_id procedure_id ground_truth_code"
    " ground_truth_source evaluation_timestamp",
    "tenant_integrations": "tenant_id external_system_id system_type display_name status sync_mode",
    "integration_credentials": "secret_encrypted refresh_token_encrypted endpoint_url key_id",
    "sync_jobs": "created_count updated_count failed_count",
    "sync_job_logs": "action error_message",
    "subscription_plans": "price_per_month price_per_year included_ai_calls included_seats"
    " included_storage_bytes",
    "tenant_billing_accounts": "contact_email billing_address_line1 payment_method_token_encrypted",
    "invoices": "id tenant_id period_start period_end status currency total_amount due_date"
    " paid_at",
    "usage_meter_readings": "tenant_id meter_id period_start period_end quantity",
    "fee_schedules": "tenant_id location_id payer_id",
    "claims": "id tenant_id patient_id payer_id claim_number status submitted_at"
    " total_billed_amount total_allowed_amount total_paid_amount",
    "claim_lines": "procedure_id treatment_plan_item_id",
    "knowledge_versions": "author_id reviewer_id approver_id approved_at",
    "knowledge_localizations": "language region",
    "conversation_participants": "user_id patient_id role",
    "messages": "id conversation_id sender_type content_type content sent_at delivery_state",
    "documents": "id tenant_id owner_type owner_id document_type storage_uri hash signed_at"
    " signer_id",
    "custom_field_definitions": "tenant_id entity_type field_key label data_type validation_rules"
    " is_indexed",
    "custom_field_values": "tenant_id entity_type entity_id field_key value_text value_number"
    " value_json",
    "research_datasets": "deidentification_method",
    "research_dataset_members": "consent_id",
}

# Enums that the document closes: exactly these values, in words of the document.
ENUMS = {
    "tenants.type": "SOLO_PRACTICE GROUP_PRACTICE DSO ACADEMIC PAYER REGULATOR AI_VENDOR OTHER",
    "tenants.partition_strategy": "ROW_LEVEL SCHEMA DATABASE",
    "tenants.status": "ACTIVE SUSPENDED CLOSED",
    "subscription_plans.tier": "BASIC PRO ENTERPRISE RESEARCH",
    "users.status": "ACTIVE INVITED DISABLED",
    "user_tenants.user_type": "DENTIST HYGIENIST ASSISTANT ADMIN FRONT_DESK PATIENT PAYER_ANALYST"
    " REGULATOR DEVELOPER",
    "user_roles.resource_scope": "ALL_LOCATIONS LOCATION TEAM SELF",
    "audit_events.actor_type": "USER SYSTEM API_CLIENT",
    "consents.subject_type": "PATIENT PROVIDER TENANT",
    "consents.consent_type": "AI_ANALYSIS RESEARCH DATA_SHARING MARKETING",
    "data_retention_policies.data_class": "PATIENT_RECORD IMAGING LOGS ANALYTICS",
    "patients.status": "ACTIVE INACTIVE DECEASED",
    "patient_identifiers.system": "INTERNAL MRN INSURANCE_MEMBER NATIONAL_ID DSO_GLOBAL_ID",
    "patient_relationships.relationship_type": "SPOUSE CHILD GUARDIAN EMERGENCY_CONTACT",
    "patient_conditions.code_system": "ICD10 SNOMED CUSTOM",
    "patient_allergies.category": "DRUG MATERIAL OTHER",
    "encounters.encounter_type": "EXAM EMERGENCY HYGIENE ORTHO IMPLANT TEACHING",
    "encounters.status": "SCHEDULED IN_PROGRESS COMPLETED CANCELLED NO_SHOW",
    "encounter_diagnoses.code_system": "ICD10 CDT SNOMED",
    "clinical_notes.note_type": "SOAP RADIOLOGY_REPORT OP_NOTE",
    "treatment_plans.status": "DRAFT PRESENTED ACCEPTED DECLINED PARTIALLY_ACCEPTED COMPLETED",
    # OTHER is ours: a study of no dental kind.
    "imaging_studies.modality": "INTRAORAL PANORAMIC CBCT PHOTO VIDEO OTHER",
    "imaging_objects.object_type": "DICOM JPEG PNG STL MP4",
    "image_annotations.source_type": "AI USER",
    "image_annotations.annotation_type": "BOUNDING_BOX MASK MEASUREMENT LABEL",
    "ai_models.domain": "CARIES PERIO PATHOLOGY ORTHO IMPLANT CDS",
    "ai_models.vendor": "INTERNAL EXTERNAL_TAG",
    "ai_models.regulatory_class": "FDA_510K CE_MDR EXPERIMENTAL",
    "ai_model_deployments.status": "ROLLED_OUT CANARY DISABLED",
    "ai_model_deployments.rollout_strategy": "PERCENTAGE TENANT_GROUP LOCATION_GROUP",
    "ai_inference_jobs.input_type": "IMAGING_STUDY PATIENT_SNAPSHOT TEXT_NOTE MULTIMODAL",
    "ai_inference_jobs.status": "QUEUED RUNNING SUCCEEDED FAILED",
    "ai_predictions.prediction_type": "CARIES BONE_LOSS PATHOLOGY RISK_SCORE"
    " TREATMENT_RECOMMENDATION",
    "ai_review_events.review_action": "CONFIRMED REJECTED EDITED",
    "ai_outcome_links.ground_truth_source": "PATHOLOGY_REPORT FOLLOWUP_IMAGING CLINICAL_NOTE",
    "external_systems.system_type": "PMS EHR PACS LIMS PAYMENT_GATEWAY INSURANCE_CLEARINGHOUSE",
    "tenant_integrations.sync_mode": "UNIDIRECTIONAL BIDIRECTIONAL",
    "usage_meters.code": "AI_INFERENCES STORAGE_GB ACTIVE_USERS API_CALLS",
    "conversation_participants.role": "AUTHOR PARTICIPANT OBSERVER",
    "messages.sender_type": "USER SYSTEM PATIENT",
    "messages.content_type": "TEXT RICH_TEXT FILE",
    "documents.owner_type": "PATIENT ENCOUNTER CLAIM TENANT",
    "research_datasets.deidentification_method": "SAFE_HARBOR EXPERT_DETERMINATION",
}

# Section X: composite and full-text indexes that the document names.
INDEXES = {
    "patients": "(tenant_id, last_name, dob)",
    "encounters": "(tenant_id, patient_id, scheduled_start_at)",
    "ai_inference_jobs": "(tenant_id, model_version_id, status, created_at)",
    "clinical_notes": "USING gin (to_tsvector('simple'::regconfig, content))",
    "messages": "USING gin (to_tsvector('simple'::regconfig, content))",
}
