"""From a quiet study to results: the two jobs `check_study` and `run_inference`.

    check_study    complete? -> rules -> flag, consent, quota -> deployment -> decision and job rows
    run_inference  pixels -> child process -> result JSON -> SR and SEG through the ingest -> rows

Every step may be repeated: job rows carry an idempotency key, objects deterministic UIDs, rows
derived ids (reliability.md R4).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from pydicom import Dataset

from ai import completeness, results
from ai.completeness import Complete, Wait
from ai.identifiers import derived_uuid, idempotency_key
from ai.orientation import Flip
from ai.results import ImageResult
from ai.rollout import Deployment, active_deployments, choose
from ai.routing import Instance, Rule, enabled_rules, has_consent, refusals, study_instances
from ai.runtime import InferenceFailed, InferenceResult
from ai.runtime.bundle import Bundle
from ai.writers.report import ReportContext
from ai.writers.segmentation import segmentation
from ai.writers.structured_report import structured_report
from storage.audit import INSERT_AUDIT, system_audit
from storage.database import Connection, Database
from storage.jobs import defer
from storage.tenants.lifecycle import is_active

logger = logging.getLogger(__name__)

RUN_TASK = "run_inference"
# The queue's own limit must be higher, so that the job's row always learns of the end.
MAX_ATTEMPTS = 3
SUSPENDED_WAIT = timedelta(minutes=5)
MAX_IMAGES = 8  # of one study; more is a sender's mistake, not a panoramic study


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image as the model sees it: displayed polarity, and the header for the report."""

    header: Dataset
    pixels: np.ndarray[Any, Any]
    modality: str
    pixel_spacing_mm: float | None


class Runtime(Protocol):
    """Inference in a child process (ai.runtime.InferenceRuntime)."""

    def run(
        self, bundle: Bundle, pixels: np.ndarray[Any, Any], context: Mapping[str, Any]
    ) -> InferenceResult: ...


@dataclass(frozen=True)
class Ports:
    """What the composition root lends: reading pixels and storing objects are interop's."""

    read_image: Callable[[UUID, UUID], SourceImage]
    store_object: Callable[[UUID, bytes], None]
    bundle: Callable[[UUID], Bundle]
    runtime: Runtime


@dataclass(frozen=True, slots=True)
class Job:
    """An `ai_inference_jobs` row with what running it needs."""

    id: UUID
    status: str
    key: str
    study_id: UUID
    patient_id: UUID
    model_version_id: UUID
    model_name: str
    version_tag: str
    attempts: int
    imaging_object_id: UUID
    completed_at: datetime | None
    result: dict[str, Any] | None


class Pipeline:
    """The AI's part of a worker process."""

    def __init__(self, database: Database, ports: Ports, default_window: float | None) -> None:
        self._database = database
        self._ports = ports
        self._default_window = default_window

    # -- completeness and routing -----------------------------------------------------------

    def check_study(self, tenant_id: UUID, study_id: UUID) -> None:
        """Route the study if it is complete, else look again when it may be."""
        with self._database.connection(tenant_id) as connection:
            state = completeness.check(connection, tenant_id, study_id, self._default_window)
            if isinstance(state, Wait):
                defer(
                    connection,
                    completeness.TASK,
                    {"tenant_id": str(tenant_id), "study_id": str(study_id)},
                    queue=completeness.QUEUE,
                    schedule_at=state.until,
                )
            elif isinstance(state, Complete):
                self._route(connection, tenant_id, state)

    def _route(self, connection: Connection, tenant_id: UUID, study: Complete) -> None:
        instances = study_instances(connection, tenant_id, study.study_id)
        for rule in enabled_rules(connection, tenant_id):
            matching = [i for i in instances if rule.predicate.matches(i)]
            if not matching:
                continue
            deployment = choose(
                active_deployments(connection, tenant_id, rule.model_id),
                tenant_id,
                study.patient_id,
            )
            reasons = refusals(connection, tenant_id, study.patient_id, len(matching))
            if study.is_disputed:
                # Findings in the wrong person's chart would be worse than none.
                reasons.append("the images' demographics disagree with the patient's record")
            if deployment is None:
                reasons.append("no version of the rule's model is rolled out here")
            if len(matching) > MAX_IMAGES:
                reasons.append(f"{len(matching)} images match, {MAX_IMAGES} at most are analysed")
            if deployment is None or reasons:
                _record_decision(connection, tenant_id, study, rule, None, reasons)
                continue
            for instance in matching:
                job_id = self._enqueue(connection, tenant_id, study, deployment, instance)
                reason = f"rule '{rule.name}' matches image {instance.sop_instance_uid}"
                _record_decision(connection, tenant_id, study, rule, job_id, [reason])

    def _enqueue(
        self,
        connection: Connection,
        tenant_id: UUID,
        study: Complete,
        deployment: Deployment,
        instance: Instance,
    ) -> UUID:
        """Insert the image's job, or bring one that failed back; return its id.

        One job per image: a late image of the study leaves the results of the others as they are.
        """
        bundle = self._ports.bundle(deployment.model_version_id)
        key = idempotency_key(
            tenant_id,
            study.study_uid,
            [instance.sop_instance_uid],
            deployment.model_version_id,
            bundle.digest,
        )
        job_id = derived_uuid(key, "job")
        is_to_run = connection.execute(
            "INSERT INTO ai_inference_jobs AS job (tenant_id, id, model_version_id, deployment_id,"
            " study_id, input_type, input_ref_id, idempotency_key, generation, compute_env)"
            " VALUES (%s, %s, %s, %s, %s, 'IMAGING_STUDY', %s, %s, %s, %s)"
            " ON CONFLICT (tenant_id, idempotency_key) DO UPDATE SET status = 'QUEUED',"
            " attempts = 0, state_reason = NULL, error_details = NULL"
            " WHERE job.status = 'FAILED' RETURNING id",
            (
                tenant_id,
                job_id,
                deployment.model_version_id,
                deployment.id,
                study.study_id,
                study.study_id,
                key,
                study.generation,
                json.dumps({"image": str(instance.imaging_object_id)}),
            ),
        ).fetchone()
        if is_to_run is not None:
            defer(
                connection,
                RUN_TASK,
                {"tenant_id": str(tenant_id), "job_id": str(job_id)},
                queue=completeness.QUEUE,
            )
        return job_id

    # -- inference and results --------------------------------------------------------------

    def run_inference(self, tenant_id: UUID, job_id: UUID) -> None:
        """Bring one job to its end. Raises for a failure that another attempt may mend."""
        job = self._begin(tenant_id, job_id)
        if job is None:
            return
        try:
            if job.attempts > MAX_ATTEMPTS:
                # Counted by workers that died with it: an input that kills must not do so for ever.
                raise InferenceFailed("every attempt ended its worker", retryable=False)
            if job.result is None:
                job = self._infer(tenant_id, job)
            self._write(tenant_id, job)
        except Exception as error:
            retryable = error.retryable if isinstance(error, InferenceFailed) else True
            again = retryable and job.attempts < MAX_ATTEMPTS
            self._fail(tenant_id, job, error, again)
            if again:
                raise
            logger.error("ai_job_failed", extra={"job_id": str(job_id)}, exc_info=error)

    def _begin(self, tenant_id: UUID, job_id: UUID) -> Job | None:
        """Count the attempt; None when the job has ended already, or must wait."""
        with self._database.connection(tenant_id) as connection:
            if not is_active(connection, tenant_id):
                _look_again_later(connection, tenant_id, job_id)
                return None
            row = connection.execute(
                "UPDATE ai_inference_jobs j SET status = 'RUNNING', attempts = j.attempts + 1,"
                " started_at = coalesce(j.started_at, now())"
                " FROM imaging_studies s, ai_model_versions v, ai_models m"
                " WHERE j.tenant_id = %s AND j.id = %s AND j.status IN ('QUEUED', 'RUNNING')"
                " AND s.tenant_id = j.tenant_id AND s.id = j.study_id"
                " AND v.id = j.model_version_id AND m.id = v.model_id"
                " RETURNING j.id, j.status, j.idempotency_key, s.id, s.patient_id, v.id, m.name,"
                " v.version_tag, j.attempts, (j.compute_env->>'image')::uuid,"
                " j.completed_at, j.result",
                (tenant_id, job_id),
            ).fetchone()
        if row is None:
            return None
        return Job(
            id=row[0],
            status=row[1],
            key=row[2],
            study_id=row[3],
            patient_id=row[4],
            model_version_id=row[5],
            model_name=row[6],
            version_tag=row[7],
            attempts=row[8],
            imaging_object_id=row[9],
            completed_at=row[10],
            result=row[11],
        )

    def _infer(self, tenant_id: UUID, job: Job) -> Job:
        """Ask the network and keep its answer, unless a twin of this job has kept one already."""
        bundle = self._ports.bundle(job.model_version_id)
        image = self._ports.read_image(tenant_id, job.imaging_object_id)
        flip = Flip.of(image.header)
        found = flip.result(
            self._ports.runtime.run(
                bundle,
                flip.image(image.pixels),
                {"modality": image.modality, "pixel_spacing_mm": image.pixel_spacing_mm},
            )
        )
        result = ImageResult(job.imaging_object_id, found.teeth, found.findings, found.label_mask)
        with self._database.connection(tenant_id) as connection:
            connection.execute(
                "UPDATE ai_inference_jobs SET result = %s, state_reason = 'writing',"
                " completed_at = greatest(now(), started_at)"
                " WHERE tenant_id = %s AND id = %s AND result IS NULL",
                (json.dumps(result.to_json()), tenant_id, job.id),
            )
            row = connection.execute(
                "SELECT completed_at, result FROM ai_inference_jobs"
                " WHERE tenant_id = %s AND id = %s",
                (tenant_id, job.id),
            ).fetchone()
        assert row is not None  # _begin found it, and nothing deletes jobs
        return replace(job, completed_at=row[0], result=row[1])

    def _write(self, tenant_id: UUID, job: Job) -> None:
        """DICOM objects first, each safe to repeat; then all rows in one transaction."""
        assert job.result is not None and job.completed_at is not None
        with self._database.connection(tenant_id) as connection:
            if not has_consent(connection, tenant_id, job.patient_id):
                raise InferenceFailed("the consent to AI analysis was revoked", retryable=False)
        image = ImageResult.from_json(job.result)
        context, sr_uid, seg_uid = self._write_objects(tenant_id, job, image)
        with self._database.connection(tenant_id) as connection:
            results.write_rows(connection, tenant_id, job.patient_id, context, image)
            results.finish_job(
                connection, tenant_id, job.id, sr_uid, seg_uid, len(image.findings), job.patient_id
            )

    def _write_objects(
        self, tenant_id: UUID, job: Job, image: ImageResult
    ) -> tuple[ReportContext, str, str | None]:
        """Store the SR and the SEG of one image; return their UIDs."""
        assert job.completed_at is not None
        context = ReportContext(
            key=job.key,
            job_id=job.id,
            model_name=job.model_name,
            model_version=job.version_tag,
            model_version_id=job.model_version_id,
            bundle_digest=self._ports.bundle(job.model_version_id).digest,
            completed_at=job.completed_at,
            source=self._ports.read_image(tenant_id, image.imaging_object_id).header,
        )
        self._ports.store_object(tenant_id, structured_report(context, image.findings))
        segments = segmentation(context, image.mask, [tooth.fdi for tooth in image.teeth])
        if segments is not None:
            self._ports.store_object(tenant_id, segments)
        return context, context.sop_uid("SR"), context.sop_uid("SEG") if segments else None

    def _fail(self, tenant_id: UUID, job: Job, error: Exception, again: bool) -> None:
        reason = error.reason if isinstance(error, InferenceFailed) else type(error).__name__
        with self._database.connection(tenant_id) as connection:
            if not again:
                connection.execute(
                    INSERT_AUDIT,
                    system_audit(
                        tenant_id,
                        "IMAGE_ANALYSIS_FAILED",
                        "AI_INFERENCE_JOB",
                        str(job.id),
                        outcome="FAILURE",
                        metadata={"attempts": job.attempts},
                    ),
                )
            connection.execute(
                "UPDATE ai_inference_jobs SET status = %s, state_reason = %s, error_details = %s,"
                " completed_at = CASE WHEN %s THEN completed_at"
                " ELSE coalesce(completed_at, greatest(now(), started_at)) END"
                " WHERE tenant_id = %s AND id = %s AND status = 'RUNNING'",
                (
                    "QUEUED" if again else "FAILED",
                    reason,
                    json.dumps({"reason": reason, "attempt": job.attempts}),
                    again,
                    tenant_id,
                    job.id,
                ),
            )


def _look_again_later(connection: Connection, tenant_id: UUID, job_id: UUID) -> None:
    """Keep the job of a suspended tenant; it runs when the tenant is active again."""
    defer(
        connection,
        RUN_TASK,
        {"tenant_id": str(tenant_id), "job_id": str(job_id)},
        queue=completeness.QUEUE,
        queueing_lock=f"{RUN_TASK}:{job_id}",
        schedule_at=datetime.now(UTC) + SUSPENDED_WAIT,
    )


def _record_decision(
    connection: Connection,
    tenant_id: UUID,
    study: Complete,
    rule: Rule,
    job_id: UUID | None,
    reasons: list[str],
) -> None:
    connection.execute(
        "INSERT INTO ai_routing_decisions (tenant_id, study_id, generation, rule_id, decision,"
        " reasons, job_id) VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (
            tenant_id,
            study.study_id,
            study.generation,
            rule.id,
            "RUN" if job_id else "SKIP",
            json.dumps(reasons),
            job_id,
        ),
    )
