"""What a routing rule may say, and what it matches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from interop.dicom.routing import Arrival, InvalidPredicate, Predicate

HERE, THERE = uuid4(), uuid4()
PANO = Arrival(
    imaging_object_id=uuid4(),
    study_id=uuid4(),
    patient_id=uuid4(),
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    modality="PX",
    calling_ae_title="PANO1",
    study_description="Panoramic, Übersicht",
    body_part="JAW",
    manufacturer="Example Dental",
    station_name="ROOM-3",
)


@pytest.mark.parametrize(
    ("conditions", "is_met"),
    [
        ({}, True),
        ({"modalities": ["IO", "px"]}, True),
        ({"modalities": ["CT"]}, False),
        ({"sop_class_uids": ["1.2.840.10008.5.1.4.1.1.1.1"]}, True),
        ({"sop_class_uids": ["1.2.840.10008.5.1.4.1.1.1"]}, False),
        ({"calling_ae_titles": ["PANO1"]}, True),
        ({"calling_ae_titles": ["pano1"]}, False),
        ({"study_descriptions": ["panoramic*"]}, True),
        ({"study_descriptions": ["*ubersicht"]}, True),
        ({"study_descriptions": ["pano"]}, False),
        ({"study_descriptions": ["ceph*", "*OVER*", "*ramic?*"]}, True),
        ({"body_parts": ["jaw"]}, True),
        ({"manufacturers": ["example*"], "station_names": ["room-?"]}, True),
        ({"manufacturers": ["example*"], "station_names": ["room-??"]}, False),
        ({"location_ids": [str(HERE)]}, True),
        ({"location_ids": [str(THERE)]}, False),
    ],
)
def test_a_predicate_holds_when_all_that_it_states_does(
    conditions: dict[str, Any], is_met: bool
) -> None:
    predicate = Predicate.from_json(conditions)

    assert predicate.matches(PANO, HERE) is is_met
    assert predicate.to_json() == conditions


def test_a_patient_without_a_location_is_at_none() -> None:
    assert not Predicate.from_json({"location_ids": [str(HERE)]}).matches(PANO, None)


@pytest.mark.parametrize(
    "conditions",
    [
        {"expression": ["1 == 1"]},
        {"modalities": "PX"},
        {"modalities": [""]},
        {"modalities": [1]},
        {"modalities": ["PX"] * 101},
        {"study_descriptions": ["*" * 201]},
        {"location_ids": ["the practice"]},
    ],
)
def test_what_is_no_condition_is_refused(conditions: dict[str, Any]) -> None:
    with pytest.raises(InvalidPredicate):
        Predicate.from_json(conditions)


@pytest.mark.timeout(60)  # it would be for ever
def test_c3_a_pattern_of_many_stars_takes_no_time() -> None:
    predicate = Predicate.from_json({"study_descriptions": ["*A" * 99 + "B"]})
    hostile = replace(PANO, study_description="A" * 20_000)

    assert not predicate.matches(hostile, UUID(int=0))
