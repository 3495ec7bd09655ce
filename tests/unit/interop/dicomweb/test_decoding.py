from __future__ import annotations

import threading
import time
from uuid import UUID, uuid4

import anyio
import pytest
from anyio import to_thread

from interop.dicomweb.decoding import DecodeSlots
from interop.errors import Unavailable


async def hold(slots: DecodeSlots, tenant_id: UUID, release: threading.Event) -> None:
    await slots.run(tenant_id, release.wait)


def test_a_decode_that_finds_no_thread_in_time_is_refused() -> None:
    release = threading.Event()
    tenant = uuid4()

    async def scenario() -> None:
        slots = DecodeSlots(process=1, tenant=1, wait_seconds=0.2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold, slots, tenant, release)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="decoders are busy"):
                await slots.run(tenant, time.time)
            release.set()
        assert await slots.run(tenant, lambda: 5) == 5

    anyio.run(scenario)


def test_no_tenant_takes_the_last_thread() -> None:
    release = threading.Event()
    greedy, other = uuid4(), uuid4()

    async def scenario() -> None:
        slots = DecodeSlots(process=2, tenant=1)
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(hold, slots, greedy, release)
            await anyio.wait_all_tasks_blocked()
            assert await slots.run(other, lambda: "done") == "done"
            release.set()

    anyio.run(scenario)


def test_decodes_leave_the_common_threads_alone() -> None:
    release = threading.Event()

    async def scenario() -> int:
        slots = DecodeSlots()
        async with anyio.create_task_group() as tasks:
            for _ in range(60):
                tasks.start_soon(hold, slots, uuid4(), release)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(5):
                found = await to_thread.run_sync(lambda: 7)
            release.set()
        return found

    assert anyio.run(scenario) == 7


def test_a_failed_decode_gives_its_slot_back() -> None:
    async def scenario() -> None:
        slots = DecodeSlots(process=1, tenant=1, wait_seconds=0.2)
        tenant = uuid4()
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await slots.run(tenant, lambda: 1 / 0)

    anyio.run(scenario)


def test_who_waits_for_the_process_gives_the_slot_of_its_tenant_back() -> None:
    release = threading.Event()
    first, second = uuid4(), uuid4()

    async def scenario() -> None:
        slots = DecodeSlots(process=1, tenant=1, wait_seconds=0.1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold, slots, first, release)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await slots.run(second, time.time)
            release.set()
        assert await slots.run(second, lambda: 5) == 5

    anyio.run(scenario)
