"""Section IV.2 and IV.3: AI models, deployments, routing, inference jobs, predictions, review."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Integer, Numeric, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from storage.schema.declarative import (
    Base,
    Exact,
    GlobalTable,
    Json,
    PlatformOrTenantTable,
    Sensitivity,
    TenantTable,
    bounded,
    count,
    exactly_one,
    flag,
    global_link,
    link,
    member_link,
    one_of,
    platform_link,
    surface,
    tooth,
)
from storage.schema.imaging import SECTION


class AiModel(GlobalTable, Base):
    """A family of models with one purpose."""

    __tablename__ = "ai_models"
    __section__ = SECTION

    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str | None]
    domain: Mapped[str] = one_of("CARIES", "PERIO", "PATHOLOGY", "ORTHO", "IMPLANT", "CDS")
    vendor: Mapped[str] = one_of("INTERNAL", "EXTERNAL_TAG", default="INTERNAL")
    vendor_name: Mapped[str | None]
    regulatory_class: Mapped[str] = one_of(
        "FDA_510K", "CE_MDR", "EXPERIMENTAL", default="EXPERIMENTAL"
    )


class AiModelVersion(GlobalTable, Base):
    """One concrete, digest-pinned version of a model."""

    __tablename__ = "ai_model_versions"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("model_id", "version_tag"),)

    model_id: Mapped[UUID] = global_link("ai_models")
    version_tag: Mapped[str]
    artifact_uri: Mapped[str]
    artifact_digest: Mapped[str | None]
    input_types: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    output_types: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    thresholds: Mapped[Json | None]
    performance_metrics: Mapped[Json | None]
    validated_on: Mapped[datetime | None]
    validation_summary_uri: Mapped[str | None]
    sbom_uri: Mapped[str | None]
    model_card_uri: Mapped[str | None]


class AiModelDeployment(PlatformOrTenantTable, Base):
    """Which version is active where; a deployment without a tenant is active for all."""

    __tablename__ = "ai_model_deployments"
    __section__ = SECTION

    model_version_id: Mapped[UUID] = global_link("ai_model_versions")
    status: Mapped[str] = one_of("ROLLED_OUT", "CANARY", "DISABLED", default="ROLLED_OUT")
    rollout_strategy: Mapped[str] = one_of(
        "PERCENTAGE", "TENANT_GROUP", "LOCATION_GROUP", default="PERCENTAGE"
    )
    rollout_percentage: Mapped[int] = bounded(0, 100, Integer(), server_default=text("100"))
    rollout_target: Mapped[Json | None]
    is_shadow: Mapped[bool] = flag()
    created_by_id: Mapped[UUID | None] = global_link("users")


class AiRoutingRule(PlatformOrTenantTable, Base):
    """A typed predicate over a study that decides whether a model runs."""

    __tablename__ = "ai_routing_rules"
    __section__ = SECTION
    __table_args__ = (UniqueConstraint("tenant_id", "name", postgresql_nulls_not_distinct=True),)

    name: Mapped[str]
    predicate: Mapped[Json]
    model_id: Mapped[UUID] = global_link("ai_models")
    enabled: Mapped[bool] = flag(True)
    priority: Mapped[int] = mapped_column(server_default=text("0"))


class AiInferenceJob(TenantTable, Base):
    """One run of one model version on one input."""

    __tablename__ = "ai_inference_jobs"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (
        UniqueConstraint("tenant_id", "idempotency_key"),
        Index(None, "tenant_id", "model_version_id", "status", "created_at"),
        Index(None, "tenant_id", "status", "created_at"),
        CheckConstraint("completed_at >= started_at", name="completed_at"),
    )

    model_version_id: Mapped[UUID] = global_link("ai_model_versions")
    deployment_id: Mapped[UUID | None] = platform_link("ai_model_deployments")
    study_id: Mapped[UUID | None] = link("imaging_studies")
    input_type: Mapped[str] = one_of(
        "IMAGING_STUDY", "PATIENT_SNAPSHOT", "TEXT_NOTE", "MULTIMODAL", default="IMAGING_STUDY"
    )
    input_ref_id: Mapped[UUID | None]
    status: Mapped[str] = one_of("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", default="QUEUED")
    state_reason: Mapped[str | None]
    requested_by_user_id: Mapped[UUID | None] = member_link()
    idempotency_key: Mapped[Exact]
    generation: Mapped[int] = count()
    attempts: Mapped[int] = bounded(0, None, Integer(), server_default=text("0"))
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    compute_env: Mapped[Json | None]
    error_details: Mapped[Json | None]
    result: Mapped[Json | None]
    sr_sop_instance_uid: Mapped[Exact | None]
    seg_sop_instance_uid: Mapped[Exact | None]


class AiRoutingDecision(TenantTable, Base):
    """Why a model ran on a study or did not; stored for both answers."""

    __tablename__ = "ai_routing_decisions"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    study_id: Mapped[UUID] = link("imaging_studies", cascade=True)
    generation: Mapped[int] = count()
    rule_id: Mapped[UUID | None] = platform_link("ai_routing_rules")
    decision: Mapped[str] = one_of("RUN", "SKIP")
    reasons: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'"))
    job_id: Mapped[UUID | None] = link("ai_inference_jobs")


class AiPrediction(TenantTable, Base):
    """One predicted finding."""

    __tablename__ = "ai_predictions"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    job_id: Mapped[UUID] = link("ai_inference_jobs", cascade=True)
    patient_id: Mapped[UUID] = link("patients")
    imaging_object_id: Mapped[UUID | None] = link("imaging_objects", cascade=True)
    prediction_type: Mapped[str] = one_of(
        "CARIES", "BONE_LOSS", "PATHOLOGY", "RISK_SCORE", "TREATMENT_RECOMMENDATION"
    )
    code: Mapped[str | None]
    confidence: Mapped[float | None] = bounded(0, 1)
    severity: Mapped[str | None]
    tooth_number: Mapped[int | None] = tooth()
    surface: Mapped[str | None] = surface()
    value: Mapped[Decimal | None] = mapped_column(Numeric(12, 4))
    unit: Mapped[str | None]
    roi_ref: Mapped[UUID | None] = link("image_annotations")
    tracking_uid: Mapped[Exact | None]
    raw_output: Mapped[Json | None]


class AiReviewEvent(TenantTable, Base):
    """What a clinician said about a prediction."""

    __tablename__ = "ai_review_events"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL

    prediction_id: Mapped[UUID] = link("ai_predictions")
    reviewer_id: Mapped[UUID | None] = member_link()
    review_action: Mapped[str] = one_of("CONFIRMED", "REJECTED", "EDITED")
    reason_code: Mapped[str | None]
    comment: Mapped[str | None]
    previous_value: Mapped[Json | None]
    new_value: Mapped[Json | None]
    use_for_training: Mapped[bool] = flag()


class AiOutcomeLink(TenantTable, Base):
    """The ground truth that later showed whether a prediction was right."""

    __tablename__ = "ai_outcome_links"
    __section__ = SECTION
    __phi__ = Sensitivity.CLINICAL
    __table_args__ = (exactly_one("encounter_id", "procedure_id"),)

    prediction_id: Mapped[UUID] = link("ai_predictions")
    encounter_id: Mapped[UUID | None] = link("encounters")
    procedure_id: Mapped[UUID | None] = link("procedures")
    ground_truth_code: Mapped[str]
    ground_truth_source: Mapped[str] = one_of(
        "PATHOLOGY_REPORT", "FOLLOWUP_IMAGING", "CLINICAL_NOTE"
    )
    evaluation_timestamp: Mapped[datetime] = mapped_column(server_default=text("now()"))
