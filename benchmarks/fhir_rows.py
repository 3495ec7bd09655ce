"""Many FHIR resources of one tenant, written by COPY straight into the read model.

For measurements only: no lens, no audit, no outbox. Bodies are what the server would have stored
and search rows come from its own extraction, so that searches do what they do in earnest. Ten
observations and an encounter stand for each patient; ids are random, so their order says nothing.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from interop.fhir import json
from interop.fhir.search.extraction import extract
from interop.fhir.versions import stamped
from storage.schema import metadata

BATCH = 5000
START = datetime(2026, 1, 1, tzinfo=UTC)
FAMILIES = ["Abel", "Berg", "Cruz", "Diaz", "Eto", "Fuchs", "Garcia", "Haas", "Ito", "Jansen"]
# Of a hundred: a few codes are common and many are rare, as in life.
CODES = [("32910-2", 40), ("8302-2", 25), ("29463-7", 15), ("8867-4", 10), ("8310-5", 7)]
RARE_CODES = 300

TABLES = ("token", "string", "reference", "date", "number", "quantity", "uri")
KEY = ("tenant_id", "resource_type", "resource_id")


@dataclass(frozen=True, slots=True)
class Corpus:
    """How many of each kind, from the number of all resources."""

    resources: int

    @property
    def patients(self) -> int:
        return max(self.resources // 12, 1)

    @property
    def practitioners(self) -> int:
        return max(self.patients // 100, 2)

    @property
    def organizations(self) -> int:
        return max(self.patients // 1000, 2)

    def make(self) -> Iterator[dict[str, Any]]:
        chance = random.Random(4)
        for number in range(self.organizations):
            yield organization(number)
        for number in range(self.practitioners):
            yield practitioner(number, chance)
        for number in range(self.patients):
            yield patient(number, self, chance)
            yield encounter(number, self, chance)
            for turn in range(10):
                yield observation(10 * number + turn, number, self, chance)


def identity(kind: int, number: int) -> str:
    """The id of the n-th resource of a kind: scattered, and the same each time."""
    return str(UUID(int=random.Random((kind << 40) + number).getrandbits(128), version=4))


def organization(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Organization",
        "id": identity(1, number),
        "name": f"Clinic {number}",
        "address": [{"city": f"City {number % 50}"}],
    }


def practitioner(number: int, chance: random.Random) -> dict[str, Any]:
    return {
        "resourceType": "Practitioner",
        "id": identity(2, number),
        "identifier": [{"system": "urn:bench:npi", "value": f"N{number}"}],
        "name": [{"family": f"{chance.choice(FAMILIES)}{number}", "given": ["Doc"]}],
    }


def patient(number: int, corpus: Corpus, chance: random.Random) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": identity(3, number),
        "identifier": [{"system": "urn:bench:mrn", "value": f"M{number}"}],
        "active": True,
        "name": [{"family": f"{chance.choice(FAMILIES)}{number % 1000}", "given": ["Bench"]}],
        "gender": chance.choice(["female", "male"]),
        "birthDate": f"{1930 + number % 90}-{number % 12 + 1:02}-{number % 28 + 1:02}",
        "generalPractitioner": [
            {"reference": f"Practitioner/{identity(2, number % corpus.practitioners)}"}
        ],
        "managingOrganization": {
            "reference": f"Organization/{identity(1, number % corpus.organizations)}"
        },
    }


def encounter(number: int, corpus: Corpus, chance: random.Random) -> dict[str, Any]:
    start = START + timedelta(minutes=chance.randrange(400_000))
    return {
        "resourceType": "Encounter",
        "id": identity(4, number),
        "status": chance.choice(["planned", "finished", "finished", "finished"]),
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{identity(3, number)}"},
        "period": {"start": start.isoformat(), "end": (start + timedelta(hours=1)).isoformat()},
        "serviceProvider": {
            "reference": f"Organization/{identity(1, number % corpus.organizations)}"
        },
    }


def observation(
    number: int, of_patient: int, corpus: Corpus, chance: random.Random
) -> dict[str, Any]:
    codes, weights = zip(*CODES, ("rare", 3), strict=True)
    code = chance.choices(codes, weights)[0]
    if code == "rare":
        code = f"9{chance.randrange(RARE_CODES):03}-1"
    moment = START + timedelta(minutes=chance.randrange(400_000))
    doctor = identity(2, chance.randrange(corpus.practitioners))
    return {
        "resourceType": "Observation",
        "id": identity(5, number),
        "identifier": [{"system": "urn:bench:obs", "value": f"O{number}"}],
        "status": chance.choices(["final", "preliminary"], [19, 1])[0],
        "category": [{"coding": [{"system": "urn:bench:category", "code": "exam"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/{identity(3, of_patient)}"},
        "encounter": {"reference": f"Encounter/{identity(4, of_patient)}"},
        "performer": [{"reference": f"Practitioner/{doctor}"}],
        "effectiveDateTime": moment.isoformat(),
        "valueQuantity": {
            "value": chance.randrange(2000) / 10,
            "unit": "mm",
            "system": "http://unitsofmeasure.org",
            "code": "mm",
        },
    }


def load(owner_url: str, tenant_id: UUID, resources: Iterable[dict[str, Any]]) -> int:
    """COPY the resources with their history and search rows, then ANALYZE. Returns how many.

    Keys and indexes of the search rows are made anew at the end, as before.
    """
    written = 0
    todo = iter(resources)
    tables = [f"fhir_search_{name}" for name in (*TABLES, "gram", "text")]
    with psycopg.connect(owner_url) as connection:
        again = [statement for table in tables for statement in _unindexed(connection, table)]
        connection.commit()
        while batch := list(islice(todo, BATCH)):
            _load_batch(connection, tenant_id, batch, written)
            connection.commit()
            written += len(batch)
        connection.execute("SET maintenance_work_mem = '512MB'")
        for statement in again:
            connection.execute(statement.encode())
    with psycopg.connect(owner_url, autocommit=True) as connection:
        for table in ("fhir_resources", *tables):
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
    return written


def _unindexed(connection: psycopg.Connection[Any], table: str) -> list[str]:
    """Drop the key and the indexes of a table; return the statements that make them again."""
    again: list[str] = []
    found = connection.execute(
        "SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), c.conname,"
        " pg_get_constraintdef(c.oid) FROM pg_index AS i"
        " LEFT JOIN pg_constraint AS c ON c.conindid = i.indexrelid"
        " WHERE i.indrelid = %s::regclass",
        (table,),
    ).fetchall()
    for index, definition, constraint, key in found:
        if constraint is None:
            connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(index)))
            again.append(definition)
        else:
            connection.execute(
                sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                    sql.Identifier(table), sql.Identifier(constraint)
                )
            )
            again.append(f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {key}")
    return again


def _load_batch(
    connection: psycopg.Connection[Any],
    tenant_id: UUID,
    batch: list[dict[str, Any]],
    already: int,
) -> None:
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for index, resource in enumerate(batch):
        moment = START + timedelta(milliseconds=250 * (already + index))
        whole = stamped(resource, resource["id"], 1, moment)
        key = (tenant_id, resource["resourceType"], resource["id"])
        body = json.dumps(whole).decode()
        rows["resources"].append((*key, 1, moment, body))
        rows["history"].append((*key, 1, moment, "PUT", body))
        found: dict[str, Any] = dict(extract(whole).as_json())
        for gram in found.pop("gram", ()):
            rows["search_gram"].append((*key, gram))
        if "text" in found:
            rows["search_text"].append((*key, *found.pop("text")))
        for table, values in found.items():
            rows[f"search_{table}"] += [(*key, *value) for value in values]
    for table, values in rows.items():
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(f"fhir_{table}"),
            sql.SQL(", ").join(map(sql.Identifier, _columns(table))),
        )
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for value in values:
                copy.write_row(value)


def _columns(table: str) -> list[str]:
    if table == "resources":
        return [*KEY, "version", "last_updated", "body"]
    if table == "history":
        return [*KEY, "version", "last_updated", "method", "body"]
    if table == "search_gram":
        return [*KEY, "gram"]
    if table == "search_text":
        return [*KEY, "narrative", "content"]
    # As extraction writes them: in the order of the table.
    columns = metadata.tables[f"fhir_{table}"].columns.keys()
    return [*KEY, *(name for name in columns if name not in KEY)]
