"""The demo's view of a running server: one tenant, one token, and the real doors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pydicom
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_auth
from requests.auth import AuthBase

from interop.command_line import CommandFailed
from interop.dimse import scu
from interop.progress import progress_bar
from interop.settings import Settings
from storage.database import Database
from storage.tenancy import Tenant

CALLING_AE_TITLE = "PYNETDICOM"
TOKEN_FILE, HEADER_FILE = "demo-token", "demo-header"
AI_SECONDS = 120.0


@dataclass(frozen=True)
class Finding:
    """One AI finding as the account tells it."""

    tooth: int
    kind: str
    surface: str | None
    confidence: float
    value: float | None


@dataclass(frozen=True)
class AiOutcome:
    """What the AI did: findings, or why there are none."""

    status: str
    reason: str | None
    seconds: float | None
    findings: list[Finding]
    decisions: list[tuple[str, str, str]]  # modality, decision, reasons


class BearerToken(AuthBase):
    """The token in the header of each request of dicomweb-client."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class DemoClinic:
    """What a practice system, a device and a viewer do with the server."""

    def __init__(self, settings: Settings, database: Database, tenant: Tenant, token: str) -> None:
        self.settings = settings
        self.database = database
        self.tenant = tenant
        self.token = token
        base = f"{settings.effective_public_url}/t/{tenant.slug}"
        self.fhir_url, self.dicomweb_url = f"{base}/fhir/R4", f"{base}/dicom-web"
        self._http = httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def put_resource(self, resource: dict[str, Any]) -> None:
        """Update-as-create, only when the stored resource differs: a repeat makes no version."""
        url = f"{self.fhir_url}/{resource['resourceType']}/{resource['id']}"
        stored = self._http.get(url)
        if stored.status_code == 200 and _without_meta(stored.json()) == resource:
            return
        answer = self._http.put(
            url, content=orjson.dumps(resource), headers={"Content-Type": "application/fhir+json"}
        )
        if answer.status_code not in (200, 201):
            raise CommandFailed(f"PUT {url}: {answer.status_code} {answer.text}")

    def get(self, url: str) -> Any:
        answer = self._http.get(url)
        answer.raise_for_status()
        return answer.json()

    def c_store(self, paths: list[Path], progress: Callable[[object], None]) -> None:
        report = scu.send(
            paths, self.settings.dicom_host, self.settings.dicom_port,
            self.tenant.ae_title or "INTEROP", CALLING_AE_TITLE, progress,
        )  # fmt: skip
        if report.failed:
            first = report.failed[0]
            raise CommandFailed(f"C-STORE of {first.path.name}: {first.status} {first.message}")

    def stow(self, paths: list[Path]) -> None:
        session = create_session_from_auth(BearerToken(self.token))
        client = DICOMwebClient(self.dicomweb_url, session=session)
        client.store_instances([pydicom.dcmread(path) for path in paths])

    def write_token_files(self) -> Path:
        """Keep the token where pasted lines read it; return the path of the header file."""
        header = self.settings.data_dir / HEADER_FILE
        for path, text in (
            (header, f"Authorization: Bearer {self.token}\n"),
            (header.with_name(TOKEN_FILE), self.token),
        ):
            path.touch(mode=0o600)
            path.write_text(text, encoding="ascii")
        return header

    def wait_for_ai(self) -> AiOutcome:
        """Wait until every complete study was decided and no job is under way."""
        deadline = time.monotonic() + AI_SECONDS
        with progress_bar("AI on what arrived") as advance:
            while time.monotonic() < deadline:
                if self._is_settled():
                    break
                time.sleep(0.5)
                advance(0)
        return self._ai_outcome()

    def _is_settled(self) -> bool:
        with self.database.connection(self.tenant.id) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM study_activity WHERE tenant_id = %(t)s"
                "  AND check_scheduled),"
                " (SELECT count(*) FROM ai_inference_jobs WHERE tenant_id = %(t)s"
                "  AND status IN ('QUEUED', 'RUNNING')),"
                " (SELECT count(*) FROM ai_inference_jobs WHERE tenant_id = %(t)s)",
                {"t": self.tenant.id},
            ).fetchone()
        return row is not None and row[0] == 0 and row[1] == 0 and row[2] > 0

    def _ai_outcome(self) -> AiOutcome:
        with self.database.connection(self.tenant.id) as connection:
            job = connection.execute(
                "SELECT id, status, state_reason,"
                " extract(epoch FROM completed_at - started_at)::float8 FROM ai_inference_jobs"
                " WHERE tenant_id = %s ORDER BY created_at DESC LIMIT 1",
                (self.tenant.id,),
            ).fetchone()
            findings = connection.execute(
                "SELECT tooth_number, prediction_type, surface, confidence, value::float8"
                " FROM ai_predictions WHERE tenant_id = %s AND job_id = %s"
                " ORDER BY tooth_number, prediction_type",
                (self.tenant.id, job[0] if job else None),
            ).fetchall()
            decisions = connection.execute(
                "SELECT s.modality, d.decision, d.reasons::text FROM ai_routing_decisions d"
                " JOIN imaging_studies s ON s.tenant_id = d.tenant_id AND s.id = d.study_id"
                " WHERE d.tenant_id = %s ORDER BY d.created_at",
                (self.tenant.id,),
            ).fetchall()
        if job is None:
            return AiOutcome("NOT RUN", "no job was made", None, [], decisions)
        return AiOutcome(job[1], job[2], job[3], [Finding(*row) for row in findings], decisions)


def _without_meta(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key != "meta"}
