"""AWS KMS as the key provider: GenerateDataKey, Encrypt and Decrypt with an encryption context.

Region, credentials and endpoint come as boto3 finds them (AWS_REGION, AWS_ENDPOINT_URL_KMS, ...).
A key ARN names its region; https://docs.aws.amazon.com/kms/latest/APIReference/.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from storage.encryption.errors import KeysUnavailable, SealBroken
from storage.encryption.providers import Context

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
ATTEMPTS = 2
# After a failure nobody waits for KMS again for this long: a thousand requests that need a key must
# not each hold a thread for seconds.
PAUSE_SECONDS = 1.0

# The ciphertext is not what this key and context have made; anything else may pass.
_BROKEN = ("InvalidCiphertextException", "IncorrectKeyException")


class AwsKeyProvider:
    """Data keys wrapped under a KMS key; `key_id` is its id, ARN or alias.

    Without one it opens what any KMS key has wrapped, and wraps nothing.
    """

    name = "AWS_KMS"

    def __init__(
        self,
        key_id: str | None,
        *,
        endpoint_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key_id = key_id
        self._endpoint_url = endpoint_url
        self._clock = clock
        self._down_until = float("-inf")
        self._made: Any = None
        self._lock = threading.Lock()

    def generate(self, context: Context) -> tuple[bytearray, bytes, str]:
        answer = self._call(
            "generate_data_key", KeyId=self._own(), KeySpec="AES_256", EncryptionContext=context
        )
        return bytearray(answer["Plaintext"]), answer["CiphertextBlob"], answer["KeyId"]

    def wrap(self, key: bytearray, context: Context) -> tuple[bytes, str]:
        answer = self._call(
            "encrypt", KeyId=self._own(), Plaintext=bytes(key), EncryptionContext=context
        )
        return answer["CiphertextBlob"], answer["KeyId"]

    def unwraps(self, key_id: str) -> bool:
        # KMS decides by the key's policy, not by what is configured here.
        return True

    def unwrap(self, wrapped: bytes, key_id: str, context: Context) -> bytearray:
        answer = self._call(
            "decrypt", KeyId=key_id, CiphertextBlob=wrapped, EncryptionContext=context
        )
        return bytearray(answer["Plaintext"])

    def _own(self) -> str:
        if self._key_id is None:
            raise KeysUnavailable("no KMS key is configured; set INTEROP_KMS_KEY_ID")
        return self._key_id

    def _call(self, operation: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        if self._clock() < self._down_until:
            raise KeysUnavailable("AWS KMS did not answer a moment ago; try again")
        try:
            arguments["EncryptionContext"] = dict(arguments["EncryptionContext"])
            return getattr(self._client(), operation)(**arguments)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _BROKEN:
                raise SealBroken("AWS KMS does not open this data key in this context") from error
            self._pause(operation, code)
            raise KeysUnavailable(f"AWS KMS refused {operation}: {code}") from error
        except BotoCoreError as error:
            self._pause(operation, type(error).__name__)
            raise KeysUnavailable(
                f"AWS KMS did not answer {operation} ({type(error).__name__})"
            ) from error

    def _pause(self, operation: str, reason: str) -> None:
        self._down_until = self._clock() + PAUSE_SECONDS
        logger.warning("kms_unavailable", extra={"operation": operation, "reason": reason})

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                # Here, because boto3 takes a quarter of a second to load and most never use it.
                import boto3
                from botocore.config import Config

                self._made = boto3.session.Session().client(
                    "kms",
                    endpoint_url=self._endpoint_url,
                    region_name=_region(self._key_id),
                    config=Config(
                        connect_timeout=CONNECT_SECONDS,
                        read_timeout=READ_SECONDS,
                        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                    ),
                )
            return self._made


def _region(key_id: str | None) -> str | None:
    """The region in an ARN (arn:aws:kms:REGION:account:key/id); None: as boto3 finds it."""
    parts = (key_id or "").split(":")
    return parts[3] if len(parts) >= 6 and parts[0] == "arn" else None
