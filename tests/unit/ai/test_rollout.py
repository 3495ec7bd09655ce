"""Deployments: a patient stays with one version, percentages hold, shadows are never shown."""

from __future__ import annotations

from collections import Counter
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.identifiers import derived_uid, idempotency_key
from ai.rollout import BUCKETS, Deployment, bucket, choose
from ai.routing import Instance, InvalidPredicate, Predicate

TENANT = UUID(int=1)
CHAMPION = Deployment(UUID(int=10), None, UUID(int=100), "ROLLED_OUT", 100, False)
CANARY = Deployment(UUID(int=11), None, UUID(int=101), "CANARY", 20, False)
SHADOW = Deployment(UUID(int=12), None, UUID(int=102), "ROLLED_OUT", 100, True)


def test_a_canary_gets_its_percentage_of_patients_and_the_champion_the_rest() -> None:
    taken = Counter(
        chosen.status
        for chosen in (choose([CANARY, CHAMPION], TENANT, uuid4()) for _ in range(4000))
        if chosen
    )

    assert 0.15 < taken["CANARY"] / 4000 < 0.25
    assert taken["CANARY"] + taken["ROLLED_OUT"] == 4000


@given(st.uuids())
def test_a_patient_stays_with_one_version(patient_id: UUID) -> None:
    first = choose([CANARY, CHAMPION], TENANT, patient_id)

    assert choose([CANARY, CHAMPION], TENANT, patient_id) == first
    assert 0 <= bucket(TENANT, patient_id, CANARY.id) < BUCKETS


def test_a_shadow_alone_shows_nothing() -> None:
    assert choose([SHADOW], TENANT, uuid4()) is None


def test_no_deployment_is_no_answer() -> None:
    assert choose([], TENANT, uuid4()) is None


PANORAMIC = Instance(
    uuid4(), "1.2", "1.2.840.10008.5.1.4.1.1.1.1", "PX", "Maker", "JAW", 1280, 2560
)


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ({}, True),
        ({"modalities": ["PX"]}, True),
        ({"modalities": ["px", "DX"]}, True),
        ({"modalities": ["IO"]}, False),
        ({"modalities": ["PX"], "min_rows": 2000}, False),
        ({"manufacturers": ["Other"]}, False),
        ({"body_parts": ["jaw"]}, True),
    ],
)
def test_all_stated_conditions_must_hold(predicate: dict[str, object], expected: bool) -> None:
    assert Predicate.from_json(predicate).matches(PANORAMIC) is expected


def test_a_condition_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InvalidPredicate, match="modalities"):
        Predicate.from_json({"modality == 'PX'": True})


def test_the_key_depends_on_the_images_and_not_on_their_order() -> None:
    def key(*uids: str) -> str:
        return idempotency_key(TENANT, "1.2.3", uids, UUID(int=5), "d")

    assert key("1.1", "1.2") == key("1.2", "1.1")
    assert key("1.1", "1.2") != key("1.1", "1.3")


def test_derived_uids_are_valid_and_stable() -> None:
    uid = derived_uid("key", "SR")

    assert uid == derived_uid("key", "SR") != derived_uid("key", "SEG")
    assert uid.startswith("2.25.") and len(uid) <= 64 and uid[5:].isdigit()
