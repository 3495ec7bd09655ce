"""The whole model as it stands in the code, as one SQL script from nothing.

Until the first release, revision 0001 is this script. At the release it is frozen by
`python -m storage.migrations.initial > src/storage/migrations/versions/0001_initial.sql`, revision
0001 runs that file instead, and changes come as new revisions; the test that compares a migrated
database with this script then proves that they add up to the models.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from procrastinate.schema import SchemaManager
from sqlalchemy import create_mock_engine
from sqlalchemy.dialects import postgresql

from storage.migrations import row_security, triggers
from storage.schema import metadata
from storage.schema.reference_rows import rows

HERE = Path(__file__).parent


def script() -> Iterator[str]:
    """All statements in order; some hold several, so they go to the driver as they are."""
    yield from _tables()
    # functions.sql before read_model.sql: the order of names is the order of execution.
    for path in sorted(HERE.glob("*.sql")):
        yield path.read_text(encoding="utf-8")
    yield SchemaManager.get_schema()
    yield from triggers.statements(metadata)
    yield from row_security.statements(metadata)
    yield from _reference_rows()


def _tables() -> Iterator[str]:
    statements: list[str] = []

    def record(statement: Any, *_: Any, **__: Any) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)))

    # Named parameters, because with the driver's own style every '%' would be doubled.
    engine = create_mock_engine("postgresql+psycopg://", record, paramstyle="named")
    metadata.create_all(engine, checkfirst=False)
    yield from statements


def _reference_rows() -> Iterator[str]:
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    for table, values in rows():
        insert = metadata.tables[table].insert().values(values)
        yield str(insert.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


if __name__ == "__main__":
    for part in script():
        sys.stdout.write(part.strip().removesuffix(";") + ";\n\n")
