"""The AI pipeline over the real database and the real ingest; only the network is scripted.

What is proven here: the gates deny by default, a job makes exactly one set of results however
often it runs or dies, and what was made is ours to recognise. The real network is exercised in
tests/integration.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="the ai extra is not installed")

from ai.completeness import reschedule_forgotten
from ai.dentition import label_of_fdi
from ai.pipeline import MAX_ATTEMPTS, Pipeline, Ports
from ai.registry import register_platform_bundles
from ai.runtime import Finding, InferenceFailed, InferenceResult, Tooth
from interop.ai_ports import AiPorts
from interop.demo.images import DemoStudy, write_study
from interop.demo.patients import PATIENTS
from interop.dicom.ingest import Ingest, Source
from interop.dicom.spool import Spool
from storage.database import Database
from storage.objects import ObjectStore
from storage.tenancy import Tenant, TenantDirectory

SQUARE = ((100.0, 100.0), (160.0, 100.0), (160.0, 170.0), (100.0, 170.0))
TEETH = (Tooth(36, SQUARE, 0.97), Tooth(11, SQUARE, 0.95))
FINDINGS = (
    Finding("caries", 36, "M", SQUARE, 0.91),
    Finding("bone_loss", 11, None, SQUARE[:2], 0.8, 31.0, "%"),
)


class ScriptedRuntime:
    """Answers like the network, or fails as told."""

    def __init__(self) -> None:
        self.runs = 0
        self.failure: Exception | None = None
        self.findings: tuple[Finding, ...] = FINDINGS
        self.seen = np.zeros((0, 0))

    def run(self, bundle: Any, pixels: np.ndarray, context: Any) -> InferenceResult:
        self.runs += 1
        self.seen = pixels
        if self.failure is not None:
            raise self.failure
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[100:170, 100:160] = label_of_fdi(36)
        mask[300:370, 100:160] = label_of_fdi(11)
        return InferenceResult(TEETH, self.findings, mask)


class Clinic:
    """A tenant with one panoramic study of one patient, and the pipeline over it."""

    def __init__(self, database: Database, objects: ObjectStore, folder: Path, tenant: Tenant):
        self.database, self.tenant, self.folder = database, tenant, folder
        self.spool = Spool(folder / "spool")
        self.ingest = Ingest(database, objects, self.spool)
        self.runtime = ScriptedRuntime()
        self.stored: list[bytes] = []
        ports = AiPorts(_Parts(database, objects, self.spool, self.ingest))

        def store(tenant_id: UUID, data: bytes) -> None:
            self.stored.append(data)
            ports.store_object(tenant_id, data)

        self.ports = Ports(ports.read_image, store, ports.bundle, self.runtime)
        self.pipeline = Pipeline(database, self.ports, default_window=0.0)

    def receive(self, patient: int, name: str, **changes: object) -> UUID:
        """Take a panoramic in, with some attributes changed; return its study."""
        study = DemoStudy("PX", "Panoramic", PATIENTS[patient], "20261101", name)
        (path,) = write_study(study, self.folder / f"images-{patient}")
        dataset = pydicom.dcmread(path)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        content = io.BytesIO()
        dataset.save_as(content, enforce_file_format=True)
        writer = self.spool.writer()
        writer.write(content.getvalue())
        outcome = self.ingest.store(self.tenant, writer.finish(), Source("C-STORE", "test"))
        assert outcome.is_success, outcome
        study_id = self.one(
            "SELECT id FROM imaging_studies WHERE tenant_id = %s AND study_uid = %s",
            study.study_uid,
        )
        assert isinstance(study_id, UUID)
        return study_id

    def allow(self, study_id: UUID) -> None:
        self.run(
            "INSERT INTO tenant_features (tenant_id, feature) VALUES (%s, 'AI_DIAGNOSTICS')"
            " ON CONFLICT DO NOTHING"
        )
        self.run(
            "INSERT INTO consents (tenant_id, subject_id, consent_type, granted_at)"
            " SELECT tenant_id, patient_id, 'AI_ANALYSIS', now() FROM imaging_studies"
            " WHERE tenant_id = %s AND id = %s",
            study_id,
        )

    def check(self, study_id: UUID) -> UUID | None:
        """Route the study; return its newest job."""
        self.pipeline.check_study(self.tenant.id, study_id)
        job = self.one(
            "SELECT max(id::text)::uuid FROM ai_inference_jobs"
            " WHERE tenant_id = %s AND study_id = %s",
            study_id,
        )
        return job if isinstance(job, UUID) else None

    def one(self, query: str, *values: object) -> Any:
        with self.database.connection(self.tenant.id) as connection:
            row = connection.execute(query, (self.tenant.id, *values)).fetchone()  # type: ignore[call-overload]
        return row[0] if row else None

    def run(self, query: str, *values: object) -> None:
        with self.database.connection(self.tenant.id) as connection:
            connection.execute(query, (self.tenant.id, *values))  # type: ignore[call-overload]

    def results(self, job_id: UUID) -> tuple[int, int, int]:
        """Predictions, annotations, AI objects."""
        return (
            self.one(
                "SELECT count(*) FROM ai_predictions WHERE tenant_id = %s AND job_id = %s", job_id
            ),
            self.one(
                "SELECT count(*) FROM image_annotations a JOIN imaging_objects o"
                " ON o.tenant_id = a.tenant_id AND o.id = a.imaging_object_id"
                " JOIN ai_inference_jobs j ON j.tenant_id = o.tenant_id"
                " AND j.study_id = o.study_id WHERE a.tenant_id = %s AND j.id = %s",
                job_id,
            ),
            self.one(
                "SELECT count(*) FROM imaging_objects o JOIN ai_inference_jobs j"
                " ON j.tenant_id = o.tenant_id AND j.study_id = o.study_id"
                " WHERE o.tenant_id = %s AND j.id = %s"
                " AND o.sop_instance_uid IN (j.sr_sop_instance_uid, j.seg_sop_instance_uid)",
                job_id,
            ),
        )

    def state(self, job_id: UUID) -> tuple[str, str | None]:
        with self.database.connection(self.tenant.id) as connection:
            row = connection.execute(
                "SELECT status, state_reason FROM ai_inference_jobs"
                " WHERE tenant_id = %s AND id = %s",
                (self.tenant.id, job_id),
            ).fetchone()
        assert row is not None
        return row[0], row[1]


class _Parts:
    """The services that AiPorts uses."""

    def __init__(self, database: Database, objects: ObjectStore, spool: Spool, ingest: Ingest):
        self.database, self.objects, self.spool, self.ingest = database, objects, spool, ingest
        self.tenants = TenantDirectory(database)


@pytest.fixture(scope="module")
def registered(database: Database, owner_url: str) -> None:
    register_platform_bundles(owner_url)
    register_platform_bundles(owner_url)  # a second start of the server changes nothing


@pytest.fixture
def clinic(
    database: Database, object_store: ObjectStore, tmp_path: Path, registered: None
) -> Iterator[Clinic]:
    from uuid import uuid4

    tenant = TenantDirectory(database).create(f"c{uuid4().hex[:12]}")
    made = Clinic(database, object_store, tmp_path, tenant)
    yield made
    made.ingest.close()


def decision(clinic: Clinic, study_id: UUID) -> tuple[str, str]:
    with clinic.database.connection(clinic.tenant.id) as connection:
        row = connection.execute(
            "SELECT decision, reasons::text FROM ai_routing_decisions WHERE tenant_id = %s"
            " AND study_id = %s ORDER BY created_at DESC LIMIT 1",
            (clinic.tenant.id, study_id),
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_without_feature_and_consent_nothing_runs_and_both_reasons_are_stored(
    clinic: Clinic,
) -> None:
    study_id = clinic.receive(0, "A")

    assert clinic.check(study_id) is None
    answer, reasons = decision(clinic, study_id)
    assert answer == "SKIP"
    assert "AI_DIAGNOSTICS" in reasons and "AI_ANALYSIS" in reasons


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_consent_that_ended_denies(clinic: Clinic, column: str) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    clinic.run(f"UPDATE consents SET {column} = now() WHERE tenant_id = %s")

    assert clinic.check(study_id) is None
    assert "AI_ANALYSIS" in decision(clinic, study_id)[1]


def test_a_used_up_quota_denies(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    clinic.run("INSERT INTO tenant_quotas (tenant_id, max_ai_inferences_per_month) VALUES (%s, 0)")

    assert clinic.check(study_id) is None
    assert "inferences are used" in decision(clinic, study_id)[1]


def test_a_job_makes_rows_a_report_and_a_segmentation(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    job_id = clinic.check(study_id)
    assert job_id is not None

    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    assert clinic.state(job_id) == ("SUCCEEDED", None)
    assert clinic.results(job_id) == (2, 4, 2)
    teeth = clinic.one(
        "SELECT array_agg(tooth_number ORDER BY tooth_number) FROM ai_predictions"
        " WHERE tenant_id = %s AND job_id = %s",
        job_id,
    )
    assert teeth == [11, 36]
    audited = clinic.one(
        "SELECT count(*) FROM audit_events WHERE tenant_id = %s"
        " AND event_type = 'IMAGE_ANALYZED' AND resource_id = %s",
        str(job_id),
    )
    assert audited == 1


def test_nothing_found_is_a_result_too(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    clinic.runtime.findings = ()
    job_id = clinic.check(study_id)
    assert job_id is not None

    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    assert clinic.state(job_id) == ("SUCCEEDED", "no findings")
    assert clinic.results(job_id) == (0, 2, 2)


def test_the_results_do_not_start_the_pipeline_again(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    job_id = clinic.check(study_id)
    assert job_id is not None
    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    scheduled = clinic.one(
        "SELECT check_scheduled FROM study_activity WHERE tenant_id = %s AND study_id = %s",
        study_id,
    )
    again = clinic.check(study_id)

    assert scheduled is False
    assert again == job_id
    assert clinic.one("SELECT count(*) FROM ai_inference_jobs WHERE tenant_id = %s") == 1


@pytest.mark.parametrize("dies_after", [0, 1], ids=["before the SR", "between SR and SEG"])
def test_a_job_that_dies_while_writing_ends_with_one_set_of_results(
    clinic: Clinic, dies_after: int
) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    job_id = clinic.check(study_id)
    assert job_id is not None

    def dying(tenant_id: UUID, data: bytes) -> None:
        if len(clinic.stored) >= dies_after:
            raise KeyboardInterrupt  # not an Exception: nothing is tidied up, as in kill -9
        clinic.ports.store_object(tenant_id, data)

    ports = Ports(clinic.ports.read_image, dying, clinic.ports.bundle, clinic.runtime)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(clinic.database, ports, 0.0).run_inference(clinic.tenant.id, job_id)

    clinic.pipeline.run_inference(clinic.tenant.id, job_id)
    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    assert clinic.state(job_id) == ("SUCCEEDED", None)
    assert clinic.results(job_id) == (2, 4, 2)
    assert clinic.runtime.runs == 1, "the stored result is written, the network is not asked again"


def test_a_consent_revoked_meanwhile_discards_the_result(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    job_id = clinic.check(study_id)
    assert job_id is not None
    clinic.run("UPDATE consents SET revoked_at = now() WHERE tenant_id = %s")

    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    status, reason = clinic.state(job_id)
    assert status == "FAILED"
    assert reason is not None and "revoked" in reason
    assert clinic.results(job_id)[0] == 0
    assert clinic.stored == []


def test_bad_pixels_fail_at_once_and_a_crash_is_tried_again(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    job_id = clinic.check(study_id)
    assert job_id is not None
    clinic.runtime.failure = InferenceFailed("the child was killed", retryable=True)

    for _ in range(MAX_ATTEMPTS - 1):
        with pytest.raises(InferenceFailed):
            clinic.pipeline.run_inference(clinic.tenant.id, job_id)
        assert clinic.state(job_id)[0] == "QUEUED"
    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    assert clinic.state(job_id) == ("FAILED", "the child was killed")
    details = clinic.one(
        "SELECT error_details::text FROM ai_inference_jobs WHERE tenant_id = %s AND id = %s", job_id
    )
    assert json.loads(details)["attempt"] == MAX_ATTEMPTS


def test_a_late_instance_opens_a_generation_and_unchanged_images_run_once(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    first = clinic.check(study_id)

    second = clinic.check(study_id)

    assert first == second is not None
    assert (
        clinic.one(
            "SELECT generation FROM study_activity WHERE tenant_id = %s AND study_id = %s", study_id
        )
        == 2
    )


def test_a_second_image_is_analysed_and_the_first_is_left_as_it_is(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    first = clinic.check(study_id)
    assert first is not None
    clinic.pipeline.run_inference(clinic.tenant.id, first)

    clinic.receive(0, "A", SOPInstanceUID="2.25.4711", InstanceNumber=2)
    clinic.pipeline.check_study(clinic.tenant.id, study_id)

    queued = clinic.one(
        "SELECT array_agg(id) FROM ai_inference_jobs WHERE tenant_id = %s AND status = 'QUEUED'"
    )
    assert len(queued) == 1 and queued[0] != first
    clinic.pipeline.run_inference(clinic.tenant.id, queued[0])
    assert clinic.runtime.runs == 2
    assert (
        clinic.one(
            "SELECT count(*) FROM ai_predictions WHERE tenant_id = %s AND job_id = %s", first
        )
        == 2
    )
    assert (
        clinic.one(
            "SELECT count(DISTINCT sr_sop_instance_uid) FROM ai_inference_jobs WHERE tenant_id = %s"
        )
        == 2
    )


@pytest.mark.parametrize(
    ("orientation", "horizontal", "vertical"),
    [(["L", "F"], False, False), (["R", "F"], True, False), (["R", "H"], True, True)],
)
def test_a_mirrored_image_is_read_the_right_way_round_and_drawn_on_as_it_is(
    clinic: Clinic, orientation: list[str], horizontal: bool, vertical: bool
) -> None:
    study_id = clinic.receive(0, "A", PatientOrientation=orientation)
    clinic.allow(study_id)
    job_id = clinic.check(study_id)
    assert job_id is not None

    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    stored = clinic.ports.read_image(
        clinic.tenant.id,
        clinic.one(
            "SELECT id FROM imaging_objects WHERE tenant_id = %s AND study_id = %s"
            " AND sop_class_uid = '1.2.840.10008.5.1.4.1.1.1.1'",
            study_id,
        ),
    ).pixels
    expected = stored[:, ::-1] if horizontal else stored
    assert np.array_equal(clinic.runtime.seen, expected[::-1] if vertical else expected)
    geometry = clinic.one(
        "SELECT geometry::text FROM image_annotations a WHERE tenant_id = %s"
        " AND label_code = 'SCT|80967001'"
    )
    height, width = stored.shape
    assert json.loads(geometry)["coordinates"][0] == [
        width - 100.0 if horizontal else 100.0,
        height - 100.0 if vertical else 100.0,
    ]


def test_an_image_that_lies_on_its_side_is_refused_with_the_reason(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A", PatientOrientation=["F", "L"])
    clinic.allow(study_id)
    job_id = clinic.check(study_id)
    assert job_id is not None

    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    status, reason = clinic.state(job_id)
    assert status == "FAILED" and reason is not None and "PatientOrientation" in reason
    assert clinic.runtime.runs == 0


def test_a_job_that_failed_runs_again_when_its_study_is_routed_again(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.allow(study_id)
    job_id = clinic.check(study_id)
    assert job_id is not None
    clinic.runtime.failure = InferenceFailed("bad weather", retryable=False)
    clinic.pipeline.run_inference(clinic.tenant.id, job_id)
    assert clinic.state(job_id)[0] == "FAILED"
    clinic.runtime.failure = None

    assert clinic.check(study_id) == job_id
    assert clinic.state(job_id)[0] == "QUEUED"
    clinic.pipeline.run_inference(clinic.tenant.id, job_id)

    assert clinic.state(job_id) == ("SUCCEEDED", None)


def test_a_study_whose_patient_is_in_doubt_is_not_analysed(clinic: Clinic) -> None:
    first = clinic.receive(0, "A")
    clinic.allow(first)
    study_id = clinic.receive(
        0, "B", StudyInstanceUID="2.25.81", SeriesInstanceUID="2.25.82", SOPInstanceUID="2.25.83",
        PatientName="Other^Person", PatientBirthDate="19500101",
    )  # fmt: skip
    other = clinic.one(
        "SELECT id FROM imaging_studies WHERE tenant_id = %s AND study_uid = '2.25.81'"
    )

    clinic.pipeline.check_study(clinic.tenant.id, other)

    assert study_id != other
    answer, reasons = decision(clinic, other)
    assert answer == "SKIP" and "disagree" in reasons


def test_a_check_whose_job_is_gone_is_queued_again_once(clinic: Clinic) -> None:
    study_id = clinic.receive(0, "A")
    clinic.run(
        "UPDATE study_activity SET last_received_at = now() - interval '1 hour'"
        " WHERE tenant_id = %s AND study_id = %s",
        study_id,
    )

    def forgotten() -> int:
        with clinic.database.connection(clinic.tenant.id) as connection:
            return reschedule_forgotten(connection, clinic.tenant.id)

    assert forgotten() == 0, "its job waits"
    clinic.run(
        "DELETE FROM procrastinate_jobs WHERE args->>'tenant_id' = %s::text"
        " AND args->>'study_id' = %s",
        str(study_id),
    )

    assert (forgotten(), forgotten()) == (1, 0)
