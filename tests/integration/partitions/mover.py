"""A process that moves tenants and is killed while it does: `python mover.py OWNER_URL`.

Reads requests from standard input, one JSON object a line, and answers each with a line. Every
move runs in a child of its own, so that everything is loaded once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from uuid import UUID

from storage.database import Database
from storage.partitions.moving import Event, move
from storage.schema import metadata

# The models are loaded before the first child is made.
assert metadata.tables


def child(owner_url: str, request: dict[str, str]) -> None:
    def told(event: Event) -> None:
        if event.step == request["die_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    move(Database(owner_url), UUID(request["tenant"]), request["to"], told=told, grace_seconds=0)


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(sys.argv[1], json.loads(line))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
