"""CPU of what every request pays for access: token check, policy, audit row (target: 300 us).

In one process on an embedded PostgreSQL. What runs in Python is timed call by call, the median
taken; what runs in PostgreSQL is the CPU time of its backend over many calls.

    python -m benchmarks.access [--calls 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import psutil
import psycopg
from starlette.requests import Request

from interop.access import Caller, Scopes, decide
from interop.access.audit import audit_parameters
from interop.access.http import Authenticator, caller_from
from interop.fhir.visibility import Visibility
from interop.smart.tokens import Subject, TokenService
from storage import resources
from storage.database import APP_ROLE, Database
from storage.embedded import OWNER_ROLE, EmbeddedPostgres
from storage.encryption import MasterKey
from storage.migrations import upgrade
from storage.schema.reference_rows import reference_id
from storage.tenancy import Tenant, TenantDirectory

TARGET_US = 300
ROUNDS = 5
BASE = "http://127.0.0.1/t/bench/fhir/R4"


class Bench:
    """One tenant with a patient, a user of one location, and tokens of three kinds."""

    def __init__(self, postgres: EmbeddedPostgres, folder: Path, calls: int) -> None:
        self.calls = calls
        owner = postgres.url(OWNER_ROLE)
        upgrade(owner)
        self.database = Database(postgres.url(APP_ROLE))
        tokens = TokenService(self.database, MasterKey.from_file(folder / "master.key"), 3600)
        directory = TenantDirectory(self.database)
        self.tenant: Tenant = directory.create("bench")
        self.services = SimpleNamespace(
            database=self.database,
            tenants=directory,
            authenticator=Authenticator(self.database, tokens),
        )
        self.patient, user = self._people(owner)
        issue = tokens.issue
        self.tokens = {
            "system": issue(self.tenant, None, "bench", Scopes.parse("system/*.cruds")),
            "user of a location": issue(
                self.tenant, None, "bench", Scopes.parse("user/*.cruds"), Subject(user_id=user)
            ),
            "patient's app": issue(
                self.tenant,
                None,
                "bench",
                Scopes.parse("openid launch/patient patient/*.rs"),
                Subject(patient_id=self.patient),
            ),
        }

    def _people(self, owner: str) -> tuple[UUID, UUID]:
        place, patient, user = uuid4(), uuid4(), uuid4()
        tenant = self.tenant.id
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO locations (tenant_id, id, name) VALUES (%s, %s, 'Place')",
                (tenant, place),
            )
            connection.execute(
                "INSERT INTO patients (tenant_id, id, first_name, last_name, primary_location_id)"
                " VALUES (%s, %s, 'A', 'B', %s)",
                (tenant, patient, place),
            )
            connection.execute("INSERT INTO users (id, full_name) VALUES (%s, 'U')", (user,))
            connection.execute(
                "INSERT INTO user_tenants (tenant_id, user_id) VALUES (%s, %s)", (tenant, user)
            )
            connection.execute(
                "INSERT INTO user_roles (tenant_id, user_id, role_id, resource_scope, location_id)"
                " VALUES (%s, %s, %s, 'LOCATION', %s)",
                (tenant, user, reference_id("roles", "CLINICIAN"), place),
            )
        return patient, user

    def request(self, token: str) -> Request:
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/t/bench/fhir/R4/Patient/{self.patient}",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {token}".encode()), (b"user-agent", b"bench")],
            "client": ("127.0.0.1", 1),
            "path_params": {"tenant": "bench"},
            "app": SimpleNamespace(state=SimpleNamespace(services=self.services)),
        }
        return Request(scope)

    async def median_us(self, call: Callable[[], Awaitable[object]]) -> float:
        taken: list[int] = []
        for _ in range(self.calls):
            begin = time.perf_counter_ns()
            await call()
            taken.append(time.perf_counter_ns() - begin)
        return statistics.median(taken) / 1000

    async def measure(self) -> None:
        print("| caller | token us | policy us | audit us | audit row us (database) | sum us |")
        print("|---|---|---|---|---|---|")
        for name, token in self.tokens.items():
            request = self.request(token)
            caller = await caller_from(request)

            async def policy(caller: Caller = caller) -> None:
                filter_ = decide(caller, "r", "Patient").require()
                if not filter_.is_whole_tenant:
                    Visibility(caller, BASE).of_read("Patient", filter_)

            async def audit(caller: Caller = caller) -> None:
                row = audit_parameters(caller, "FHIR_READ", "Patient", str(self.patient))
                resources.json_text(row)

            async def check(request: Request = request) -> None:
                await caller_from(request)

            parts = [await self.median_us(part) for part in (check, policy, audit)]
            parts.append(self.audit_row_us(caller))
            figures = " | ".join(f"{part:.0f}" for part in parts)
            print(f"| {name} | {figures} | {sum(parts):.0f} |")
            if sum(parts) > TARGET_US:
                raise SystemExit(f"{name}: {sum(parts):.0f} us is above the target of {TARGET_US}")

    def audit_row_us(self, caller: Caller) -> float:
        """CPU of the backend for one audit row, with its row of phi_access_logs."""
        row = audit_parameters(caller, "FHIR_READ", "Patient", str(self.patient))
        values: tuple[Any, ...] = (self.tenant.id, resources.json_text(row), self.patient)
        write = "SELECT write_audit_event(%s, %s, %s)"
        with self.database.connection(self.tenant.id) as connection:
            backend = psutil.Process(connection.info.backend_pid)

            def cpu(query: str, given: tuple[Any, ...]) -> float:
                for _ in range(50):
                    connection.execute(query.encode(), given)
                rounds: list[float] = []
                for _ in range(ROUNDS):
                    before = sum(backend.cpu_times()[:2])
                    for _ in range(self.calls):
                        connection.execute(query.encode(), given)
                    rounds.append(sum(backend.cpu_times()[:2]) - before)
                return statistics.median(rounds) / self.calls * 1e6

            return cpu(write, values) - cpu("SELECT %s, %s, %s", tuple(map(str, values)))


async def run(bench: Bench) -> None:
    await bench.database.open_async()
    try:
        await bench.measure()
    finally:
        await bench.database.close_async()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interop-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres").start()
        try:
            bench = Bench(postgres, Path(folder), arguments.calls)
            asyncio.run(run(bench))
            bench.database.close()
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
