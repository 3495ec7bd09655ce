"""Object keys: server-made, parseable, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.objects.keys import InvalidKey, KeyParts, check_key, hour_prefix, new_key, parse_key

TENANT = UUID("11111111-2222-3333-4444-555555555555")


def test_key_names_tenant_and_hour_in_utc() -> None:
    east = datetime(2026, 11, 22, 1, 30, tzinfo=timezone(timedelta(hours=5)))

    key = new_key(TENANT, east)

    assert key.startswith(f"{TENANT}/2026112120/")
    assert key.startswith(hour_prefix(TENANT, east))
    assert parse_key(key) == KeyParts(TENANT, datetime(2026, 11, 21, 20, tzinfo=UTC))


def test_two_keys_differ() -> None:
    assert new_key(TENANT) != new_key(TENANT)


@pytest.mark.parametrize("foreign", ["a/b/c", f"{TENANT}/2026112120/x", f"{TENANT}/{TENANT}", ""])
def test_key_of_another_make_has_no_parts(foreign: str) -> None:
    assert parse_key(foreign) is None


@given(st.text(max_size=40))
def test_accepted_key_never_has_a_dotted_or_empty_segment(text: str) -> None:
    try:
        key = check_key(text)
    except InvalidKey:
        return
    assert all(segment and not segment.startswith(".") for segment in key.split("/"))
    assert key.isascii() and "\x00" not in key
