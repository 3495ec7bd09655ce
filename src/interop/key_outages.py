"""What it means to a client that an encryption key cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from interop.errors import Gone, ServerError, Unavailable
from storage.encryption import KeyDestroyed, KeysUnavailable

RETRY_SECONDS = 5


def refusal(error: KeysUnavailable | KeyDestroyed) -> ServerError:
    """The error that a client is told."""
    if isinstance(error, KeyDestroyed):
        return Gone(str(error) or KeyDestroyed.__doc__)
    return Unavailable(
        "this needs an encryption key, and the service that keeps the keys does not answer; what "
        "is not sealed goes on; try again",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


@contextmanager
def keys_needed() -> Iterator[None]:
    """Raise ServerErrors in place of the absence of keys."""
    try:
        yield
    except (KeysUnavailable, KeyDestroyed) as error:
        raise refusal(error) from error
