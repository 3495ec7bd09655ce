"""Writes .env and deploy/s3.json with fresh random secrets; refuses to overwrite either."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

ENV, S3 = Path(".env"), Path("deploy/s3.json")


def write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def main() -> None:
    access, secret = secrets.token_hex(10), secrets.token_urlsafe(30)
    write_new(
        ENV,
        f"POSTGRES_PASSWORD={secrets.token_urlsafe(24)}\n"
        f"S3_ACCESS_KEY={access}\nS3_SECRET_KEY={secret}\n"
        f"INTEROP_MASTER_KEY={base64.b64encode(os.urandom(32)).decode()}\n"
        "INTEROP_PUBLIC_URL=http://127.0.0.1:8080\n",
    )
    identity = {
        "name": "interop",
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    write_new(S3, json.dumps({"identities": [identity]}, indent=2) + "\n")
    print(f"wrote {ENV} and {S3}")


if __name__ == "__main__":
    main()
