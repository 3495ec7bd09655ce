"""A process that writes as a practice system does: `python writer.py URL TENANT_ID SECONDS`.

A patient a time, and a change of the one before; each acknowledged write is a line of JSON. Ends
when standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from uuid import UUID

from storage import places
from storage.database import Database


def main() -> None:
    places.REMEMBER_SECONDS = float(sys.argv[3])
    database, tenant_id = Database(sys.argv[1]), UUID(sys.argv[2])
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    before: str | None = None
    number = 0
    while not stop.is_set():
        number += 1
        try:
            with database.connection(tenant_id) as connection:
                row = connection.execute(
                    "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'new') RETURNING id",
                    (tenant_id,),
                ).fetchone()
                connection.execute(
                    "UPDATE patients SET last_name = 'changed' WHERE tenant_id = %s AND id = %s",
                    (tenant_id, before),
                )
            assert row is not None
            before = str(row[0])
            print(json.dumps({"id": before}), flush=True)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        time.sleep(0.01)
    database.close()


if __name__ == "__main__":
    main()
