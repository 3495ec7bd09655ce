"""Waiting in tests for what another process or thread will have done soon."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(claim: Callable[[], bool], seconds: float = 20.0) -> bool:
    """True as soon as the claim holds; False when it still does not at the end."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
