"""Who may decode pixels, and when: a few threads for all, and no tenant takes the last of them.

Decoding waits for a child process (`interop/dicom/decode_pool.py`). In the event loop's common
threads it would keep everybody's byte ranges and tokens waiting, so it has threads of its own, and
those who wait for one wait in the event loop, where waiting costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, TypeVarTuple
from uuid import UUID
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, Semaphore, WouldBlock, fail_after, to_thread
from anyio.lowlevel import RunVar

from interop.errors import Unavailable

# Twice the child processes: one frame is read from the store while another is decoded.
PROCESS_DECODES = 4
TENANT_DECODES = 3
WAIT_SECONDS = 15.0

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")
_slots: RunVar[DecodeSlots] = RunVar("decode_slots")


class DecodeSlots:
    """The decodes of one event loop."""

    def __init__(
        self,
        process: int = PROCESS_DECODES,
        tenant: int = TENANT_DECODES,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._wait_seconds = wait_seconds
        self._limiter = CapacityLimiter(process)
        self._process = Semaphore(process)
        self._tenant_slots = tenant
        # A tenant's semaphore lives as long as somebody holds it or waits for it.
        self._tenants: WeakValueDictionary[UUID, Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def _slot(self, tenant_id: UUID, wait_seconds: float) -> AsyncIterator[None]:
        mine = self._tenants.get(tenant_id)
        if mine is None:
            mine = self._tenants[tenant_id] = Semaphore(self._tenant_slots)
        taken: list[Semaphore] = []
        try:
            try:
                await self._take((mine, self._process), taken, wait_seconds)
            except TimeoutError:
                raise Unavailable("all decoders are busy; try again later") from None
            yield
        finally:
            for semaphore in taken:
                semaphore.release()

    @staticmethod
    async def _take(
        wanted: tuple[Semaphore, ...], taken: list[Semaphore], wait_seconds: float
    ) -> None:
        """Move the semaphores to `taken`. Raises TimeoutError."""
        with suppress(WouldBlock):
            # Mostly they are free, and then no clock is needed.
            for semaphore in wanted:
                semaphore.acquire_nowait()
                taken.append(semaphore)
            return
        with fail_after(wait_seconds):
            for semaphore in wanted[len(taken) :]:
                await semaphore.acquire()
                taken.append(semaphore)

    async def run(
        self,
        tenant_id: UUID,
        decode: Callable[[*Arguments], Result],
        *arguments: *Arguments,
        is_patient: bool = False,
    ) -> Result:
        """Run a blocking decode in a thread. Raises Unavailable when none is free in time.

        Who has sent a part of its answer already is patient: a refusal would cut the answer off.
        """
        async with self._slot(tenant_id, math.inf if is_patient else self._wait_seconds):
            return await to_thread.run_sync(decode, *arguments, limiter=self._limiter)


def decode_slots() -> DecodeSlots:
    """The decodes of this event loop."""
    try:
        return _slots.get()
    except LookupError:
        slots = DecodeSlots()
        _slots.set(slots)
        return slots
