"""An application entity is a caller, with the scopes that the registry gives it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from interop.access import decide
from interop.access.devices import device
from storage.tenancy import Tenant

TENANT = Tenant(uuid4(), "demo", "Demo", "INTEROP", "ACTIVE", "ROW_LEVEL")


@pytest.mark.parametrize("may_query", [False, True])
@pytest.mark.parametrize("may_send", [False, True])
def test_the_registry_of_entities_decides_which_letters_there_are(
    may_send: bool, may_query: bool
) -> None:
    caller = device(TENANT, "SENSOR", "10.0.0.7", may_send=may_send, may_query=may_query)

    allowed = {letter for letter in "cruds" if decide(caller, letter, "ImagingStudy").is_allowed}

    assert allowed == ({"c"} if may_send else set()) | ({"r", "s"} if may_query else set())


def test_a_device_gets_at_nothing_but_images() -> None:
    caller = device(TENANT, "SENSOR", "10.0.0.7", may_send=True, may_query=True)

    assert not decide(caller, "r", "Patient").is_allowed
    assert not decide(caller, "c", "Observation").is_allowed


def test_a_device_of_somebody_elses_purpose_sees_only_who_consented() -> None:
    caller = device(
        TENANT, "PARTNER", "10.0.0.7", may_send=True, may_query=True, required_consent="RESEARCH"
    )

    filter_ = decide(caller, "s", "ImagingStudy").require()

    assert filter_.asks_consent and not filter_.is_whole_tenant
