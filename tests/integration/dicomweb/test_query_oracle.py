"""Generated studies and questions: what PostgreSQL finds is what a slow, obvious reading finds."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from interop.dicom.query.attributes import Level
from interop.dicom.query.conditions import NO_TAGS
from interop.dicom.query.matching import Parameters
from interop.dicom.query.statements import position_of
from interop.dicomweb import qido
from interop.dicomweb.query import read_parameters, understood
from storage.database import Database
from storage.tenancy import Tenant

STUDIES, QUESTIONS, SEED = 240, 300, 20261123
FAMILY = ["Müller", "Mueller", "MILLER", "Meyer", "Maier", "Schmidt", "Smith", "O'Neil", "Đặng",
          "Nguyễn", "van der Berg", "Zoë-Ann", "Stephens", "Stevens", "X", ""]  # fmt: skip
GIVEN = ["Anna", "Jürgen", "Jane", "Catherine", "Kathryn", "Pat", ""]
DATES = ["20260101", "20260102", "20260228", "20251231", "20240229", "20260231", "2026", ""]
TIMES = ["10", "1015", "101530", "101530.5", "235959.99", "000000", "0030", "2330", ""]
ZONES = ["+0000", "+0200", "-0500", "+0530", "", "", "ZULU"]
MODALITIES = [["IO"], ["PX"], ["CT", "IO"], ["CT", "PX"], []]
TEXTS = ["Bitewings", "bitewings left", "Pano 50%", "a_b", "\\", ""]


@dataclass
class Study:
    """One study as the generator drew it."""

    uid: str
    name: str
    patient_id: str
    date: str
    time: str
    zone: str
    modalities: list[str]
    description: str
    instances: int

    @property
    def json(self) -> str:
        zone = {"00080201": {"vr": "SH", "Value": [self.zone]}} if self.zone else {}
        return json.dumps({"00080005": {"vr": "CS", "Value": ["x"]}, **zone}, separators=(",", ":"))


# -- the obvious reading ----------------------------------------------------------------------


def normal(text: str) -> str:
    """As the server says that names are compared: no case, no accents, no empty ends."""
    plain = unicodedata.normalize("NFKD", text.upper())
    plain = "".join(c for c in plain if not unicodedata.combining(c)).upper()
    return " ".join("^".join(part.strip() for part in plain.split("^")).rstrip("^ ").split())


def is_like(value: str, pattern: str) -> bool:
    parts = re.split(r"([*?])", pattern)
    form = "".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(form, value, re.DOTALL) is not None


def sound(word: str) -> str:
    """How a word sounds, read letter by letter."""
    if not re.fullmatch("[A-Z]{2,64}", word):
        return ""
    for pair in ("TSCH", "SCH", "TSH", "SH", "TZ", "Z"):
        word = word.replace(pair, "S")
    word = word.replace("PH", "F")
    for pair in ("CH", "CK", "GH", "KH"):
        word = word.replace(pair, "K")
    found: list[str] = []
    for at, letter in enumerate(word):
        if letter == "C":
            letter = "S" if word[at + 1 : at + 2] in tuple("EIY") and word[at + 1 :] else "K"
        if letter in "YJ" and at == 0:
            letter = "J"
        letter = {"B": "P", "D": "T", "V": "F", "W": "F", "G": "K", "Q": "K", "X": "K"}.get(
            letter, letter
        )
        if letter not in "HY":
            found.append(letter)
    kept = [letter for at, letter in enumerate(found) if at == 0 or letter not in "AEIOU"]
    return re.sub(r"(.)\1+", r"\1", "".join(kept))


def words(name: str) -> list[str]:
    return [word for word in re.split(r"[\^= .,'-]+", normal(name)) if word]


def is_fuzzy(name: str, asked: str) -> bool:
    known = words(name)
    return all(
        any(one.startswith(word) or (sound(word) and sound(one) == sound(word)) for one in known)
        for word in words(asked)
    )


def moment(study: Study, zone: str) -> tuple[str, str]:
    """Date and time in the zone of the query, where the study is a moment of a known zone."""
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)", study.zone)
    time = re.fullmatch(r"(\d\d)(\d\d)?(.*)", study.time)
    if not zone or not found or not time or study.zone == zone:
        return study.date, study.time
    try:
        local = datetime.strptime(study.date + time[1] + (time[2] or "00"), "%Y%m%d%H%M")
    except ValueError:
        return study.date, study.time
    if len(study.date) != 8:
        return study.date, study.time
    there = local + timedelta(minutes=minutes(zone) - minutes(study.zone))
    return there.strftime("%Y%m%d"), there.strftime("%H%M") + time[3]


def minutes(zone: str) -> int:
    value = int(zone[1:3]) * 60 + int(zone[3:])
    return -value if zone[0] == "-" else value


def within(value: str, asked: str) -> bool:
    low, dash, high = asked.partition("-")
    high = high if dash else low
    return value > "0" and value >= low and (not high or value[: len(high)] <= high)


def is_within(study: Study, days: str, times: str, zone: str) -> bool:
    day, time = moment(study, zone)
    (a, one, b), (c, other, d) = days.partition("-"), times.partition("-")
    if one and other and bool(a) == bool(c) and bool(b) == bool(d):
        if zone:
            return within(day.ljust(8) + time, f"{a + c}-{b + d}")
        if not day > "0" or (a and (day, time) < (a, c)):
            return False
        return not b or day < b or (day == b and (time[: len(d)] <= d))
    return (not days or within(day, days)) and (not times or within(time, times))


def matches(study: Study, asked: dict[str, str]) -> bool:  # noqa: PLR0912
    zone = asked.get("TimezoneOffsetFromUTC", "")
    days, times = asked.get("StudyDate", ""), asked.get("StudyTime", "")
    if (days or times) and not is_within(study, days, times, zone):
        return False
    for keyword, text in (("PatientID", study.patient_id), ("StudyDescription", study.description)):
        value = asked.get(keyword, "")
        if value == '""':
            if text and asked.get("emptyvaluematching") == "true":
                return False
        elif value and not is_like(text, value):
            return False
    if name := asked.get("PatientName"):
        is_plain = words(name.rstrip("*")) and not re.search(r"[*?]", name.rstrip("*"))
        if asked.get("fuzzymatching") == "true" and is_plain:
            if not is_fuzzy(study.name, name.rstrip("*")):
                return False
        elif not is_like(normal(study.name), normal(name)):
            return False
    if modalities := asked.get("ModalitiesInStudy"):
        wanted = modalities.split("\\")
        quantifier = all if asked.get("multiplevaluematching") == "true" else any
        if not quantifier(one in study.modalities for one in wanted):
            return False
    if uids := asked.get("StudyInstanceUID"):
        if study.uid not in uids.split(","):
            return False
    count = asked.get("NumberOfStudyRelatedInstances")
    return count is None or study.instances == int(count)


# -- generated -----------------------------------------------------------------------------


def draw_study(draw: random.Random, number: int) -> Study:
    return Study(
        uid=f"1.9.{number}",
        name="^".join((draw.choice(FAMILY), draw.choice(GIVEN))).rstrip("^"),
        patient_id=draw.choice(["P1", "p1", "P2", "Q_1", "Q%1", "*"]),
        date=draw.choice(DATES),
        time=draw.choice(TIMES),
        zone=draw.choice(ZONES),
        modalities=draw.choice(MODALITIES),
        description=draw.choice(TEXTS),
        instances=draw.randrange(4),
    )


def draw_range(draw: random.Random, values: list[str]) -> str:
    low, high = sorted((draw.choice(values), draw.choice(values)))
    return draw.choice([low, f"{low}-{high}", f"{low}-", f"-{high}"])


def draw_question(draw: random.Random) -> dict[str, str]:
    family = draw.choice(FAMILY[:-1])
    drawn = {
        "PatientName": draw.choice([family, f"{family}*", f"{family[:2]}*", f"*{family[-2:]}*",
                                    f"{family}^{draw.choice(GIVEN)}", draw.choice(GIVEN[:-1]),
                                    f"?{family[1:]}*"]),
        "PatientID": draw.choice(["P1", "p*", "?1", "Q_*", "Q%1", "*1"]),
        "StudyDescription": draw.choice(["Bite*", "*left", "*%", "a_b", "a?b", '""', "\\"]),
        "StudyDate": draw_range(draw, ["20251231", "20260101", "20260102", "20260228", "20240229"]),
        "StudyTime": draw_range(draw, ["00", "0030", "1015", "101530", "101530.5", "2330", "2359"]),
        "ModalitiesInStudy": draw.choice(["IO", "CT\\IO", "CT\\PX", "MR", "CT"]),
        "StudyInstanceUID": draw.choice(["1.9.3", "1.9.3,1.9.4,1.9.77", "9.9"]),
        "NumberOfStudyRelatedInstances": str(draw.randrange(4)),
    }  # fmt: skip
    asked = {key: drawn[key] for key in draw.sample(sorted(drawn), draw.randint(1, 3))}
    for option in ("fuzzymatching", "emptyvaluematching", "multiplevaluematching"):
        if draw.random() < 0.5:
            asked[option] = "true"
    if draw.random() < 0.4:
        asked["TimezoneOffsetFromUTC"] = draw.choice(["+0000", "+0300", "-0800"])
    return asked


@pytest.fixture(scope="module")
def studies(database: Database, tenant: Tenant) -> list[Study]:
    draw = random.Random(SEED)
    made = [draw_study(draw, number) for number in range(STUDIES)]
    with database.connection(tenant.id) as connection:
        row = connection.execute(
            "INSERT INTO patients (tenant_id, last_name) VALUES (%s, 'X') RETURNING id",
            (tenant.id,),
        ).fetchone()
        assert row is not None
        for one in made:
            connection.execute(
                "INSERT INTO imaging_studies (tenant_id, patient_id, study_uid, study_date,"
                " study_time, patient_name, patient_name_key, dicom_patient_id, study_description,"
                " modalities_in_study, number_of_instances, dicom_json)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (tenant.id, row[0], one.uid, one.date, one.time, one.name, normal(one.name),
                 one.patient_id, one.description, one.modalities, one.instances, one.json),
            )  # fmt: skip
    return made


def pages(
    database: Database, tenant: Tenant, asked: dict[str, str], limit: int, draw: random.Random
) -> Iterator[list[str]]:
    """The pages of a search, each by the link of the one before or by its offset."""
    after: tuple[str, str] | None = None
    found = 0
    while True:
        paging = [("limit", str(limit)), *([after] if after else [])]
        query = understood(read_parameters(Level.STUDY, [*asked.items(), *paging]))
        parameters = Parameters(tenant_id=tenant.id)
        shape = qido.shape_of(Level.STUDY, query, NO_TAGS)
        statement = qido.statement(shape, query, (), parameters)
        with database.connection(tenant.id) as connection:
            rows: list[Any] = connection.execute(
                statement.rows.encode(), parameters.values
            ).fetchall()
        page = qido.first_page(rows, shape, query)
        yield [row[0] for row in page]
        if len(rows) <= len(page):
            return
        found += len(page)
        token = position_of(shape, page[-1]).token()
        after = draw.choice([("continuation", token), ("offset", str(found))])


def test_what_is_found_is_what_the_obvious_reading_finds(
    database: Database, tenant: Tenant, studies: list[Study]
) -> None:
    draw = random.Random(SEED + 1)
    order = sorted(studies, key=lambda one: (one.date, one.time, one.uid), reverse=True)
    hits = 0
    for _ in range(QUESTIONS):
        asked = draw_question(draw)
        expected = [one.uid for one in order if matches(one, asked)]

        found = [uid for page in pages(database, tenant, asked, 50, draw) for uid in page]

        differing = [one for one in studies if (one.uid in found) != (one.uid in expected)]
        assert not differing, (asked, differing)
        assert found == expected, asked
        hits += bool(expected)
    assert hits > QUESTIONS / 3
