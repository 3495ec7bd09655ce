"""dcmjs-dimse, a DIMSE of JavaScript that shares no code with ours: it stores, finds and gets.

Wants `npm install --prefix tests/clients`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interop.dimse.transport_guard import TransportLimits
from storage.tenancy import Tenant
from tests.integration.dimse.conftest import Sample, Start

CLIENTS = Path(__file__).parents[2] / "clients"
NODE = shutil.which("node")

needs_client = pytest.mark.skipif(
    NODE is None or not (CLIENTS / "node_modules/dcmjs-dimse").is_dir(),
    reason="node or dcmjs-dimse is not there (npm install --prefix tests/clients)",
)


@needs_client
def test_it_stores_and_finds_and_gets_what_it_has_stored(
    start: Start, tenant: Tenant, make_ct: Callable[..., Sample]
) -> None:
    sample = make_ct(PatientName="Zoë^Ko", SpecificCharacterSet="ISO_IR 192")

    seen = _run(
        port=start(TransportLimits()).port,
        calling="PEER",
        called=tenant.ae_title,
        file=str(sample.path),
        study=sample.study_instance_uid,
    )

    assert seen["echo"]["statuses"] == [0]
    assert seen["store"]["statuses"] == [0]
    assert seen["find"]["statuses"] == [0xFF00, 0]
    (found,) = seen["find"]["datasets"]
    assert found["StudyInstanceUID"] == sample.study_instance_uid
    assert "Zoë^Ko" in json.dumps(found["PatientName"], ensure_ascii=False)
    assert seen["get"]["statuses"][-1] == 0
    assert seen["received"] == [sample.sop_instance_uid]


def _run(**given: Any) -> Any:
    assert NODE is not None
    done = subprocess.run(
        [NODE, str(CLIENTS / "dcmjs_dimse.mjs")],
        input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout[done.stdout.index("{") :])
