"""What one received object contributes to the rows: pure mapping, no database, no file.

Columns hold what queries match (QIDO-RS PS3.18 10.6, C-FIND PS3.4 C.6.2); the JSON members are
those of PS3.18 Tables 10.6.3-3 and 10.6.3-4, taken from the object as it was sent.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from uuid import UUID

from interop.dicom import implementation
from interop.dicom.failures import LIMIT_EXCEEDED, Failure
from interop.dicom.ingest_types import Source
from interop.dicom.modality import study_kind
from interop.dicom.names import matching_key
from interop.dicom.part10 import Instance
from interop.dicom.spool import Spooled

# PS3.18 Table 10.6.3-3, without what the server counts or knows itself, plus what C-FIND and
# viewers ask for: Study Description, Issuer of Patient ID.
STUDY_TAGS = (
    0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080090, 0x00080201, 0x00081030,
    0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x0020000D, 0x00200010,
)  # fmt: skip
# PS3.18 Table 10.6.3-4, plus Laterality, Body Part Examined and Station Name.
SERIES_TAGS = (
    0x00080005, 0x00080021, 0x00080031, 0x00080060, 0x00080201, 0x0008103E, 0x00081010,
    0x00180015, 0x0020000E, 0x00200011, 0x00200052, 0x00200060, 0x00400241, 0x00400244,
    0x00400245, 0x00400275,
)  # fmt: skip
# What indexes hold, and how many bytes of it are taken. PS3.5 6.2 allows 64 characters of at most
# 4 bytes, in three groups for a name; PostgreSQL refuses index rows above 2,700 bytes.
_INDEXED = {
    0x00080020: 256, 0x00080030: 256, 0x00080050: 256, 0x00080060: 256, 0x00080090: 1024,
    0x00100010: 1024, 0x00100020: 256, 0x00100021: 256, 0x00100030: 256, 0x00100040: 256,
    0x00200010: 256,
}  # fmt: skip
_NAMES = (0x00080090, 0x00100010)
# A character of three bytes decomposes into up to 18 of them in a matching key.
_SHORT_NAME = 64


@dataclass(slots=True)
class Received:
    """One object on its way into the rows."""

    instance: Instance
    spooled: Spooled
    source: Source
    storage_uri: str
    started_at: datetime
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    # Of an object that an operator releases from quarantine: its row there.
    released_id: UUID | None = None

    @property
    def starts_analysis(self) -> bool:
        """Whether the object may start an AI run: not when it is our own product (loop guard)."""
        return (
            self.source.door != "AI"
            and self.instance.text(0x00080070) != implementation.MANUFACTURER
        )

    @property
    def row_bytes(self) -> int:
        """What the object adds to the statement that writes its row, about."""
        return len(self.instance.dicom_json) + len(self.instance.frames.table or b"")

    @property
    def patient_id(self) -> str:
        return column(self.instance.first(0x00100020))

    @property
    def issuer(self) -> str:
        return column(self.instance.text(0x00100021))

    @property
    def modality(self) -> str:
        return column(self.instance.first(0x00080060))

    @property
    def kind(self) -> str:
        tags = (0x00081030, 0x0008103E, 0x00181030, 0x00180015, 0x00081090, 0x00080070, 0x00189302)
        words = " ".join(self.instance.text(tag) for tag in tags)
        return study_kind(self.modality, self.sop_class_uid, words)


@dataclass(frozen=True, slots=True)
class Demographics:
    """What a device says about the person; compared, never merged."""

    name: str
    birth_date: str
    sex: str

    def differences(self, other: Demographics) -> list[str]:
        """Return the attributes that both know and that differ."""
        pairs = (
            ("PatientName", matching_key(self.name), matching_key(other.name)),
            ("PatientBirthDate", self.birth_date, other.birth_date),
            ("PatientSex", self.sex, other.sex),
        )
        return [
            attribute for attribute, mine, theirs in pairs if mine and theirs and mine != theirs
        ]


def check_lengths(instance: Instance) -> None:
    """Refuse values that are too long to be matched; nobody can search for what is cut off."""
    for tag, most in _INDEXED.items():
        found = instance.top.get(tag)
        if found is not None and found[2] > most:
            raise _too_long(tag, f"{found[2]} bytes", most)
    for tag in _NAMES:
        found = instance.top.get(tag)
        if found is None or found[2] <= _SHORT_NAME:
            continue
        text = instance.text(tag)
        length = max(len(t.encode("utf-8", "replace")) for t in (text, matching_key(text)))
        if length > _INDEXED[tag]:
            raise _too_long(tag, f"{length} bytes in the form that is searched", _INDEXED[tag])


def _too_long(tag: int, length: str, most: int) -> Failure:
    return Failure.of(
        LIMIT_EXCEEDED,
        f"Attribute ({tag >> 16:04X},{tag & 0xFFFF:04X}) has {length}; {most} at most are taken.",
    )


def demographics(instance: Instance) -> Demographics:
    return Demographics(
        column(instance.text(0x00100010)),
        column(instance.first(0x00100030)),
        column(instance.first(0x00100040)),
    )


def study_columns(received: Received) -> dict[str, object]:
    """Return the columns of imaging_studies that the object's own attributes fill."""
    instance = received.instance
    referrer = column(instance.text(0x00080090))
    name = column(instance.text(0x00100010))
    return {
        "study_uid": received.study_instance_uid,
        "modality": received.kind,
        "body_part": column(instance.text(0x00180015)) or None,
        "acquisition_datetime": acquired_at(instance),
        "source_system": received.source.calling_ae_title or received.source.door,
        "study_date": column(instance.first(0x00080020)),
        "study_time": column(instance.first(0x00080030)),
        "accession_number": column(instance.first(0x00080050)),
        "dicom_study_id": column(instance.first(0x00200010)),
        "study_description": column(instance.text(0x00081030)),
        "referring_physician_name": referrer,
        "referring_physician_key": matching_key(referrer),
        "patient_name": name,
        "patient_name_key": matching_key(name),
        "dicom_patient_id": received.patient_id,
        "issuer_of_patient_id": received.issuer,
        "patient_birth_date": column(instance.first(0x00100030)),
        "patient_sex": column(instance.first(0x00100040)),
    }


def series_columns(received: Received) -> dict[str, object]:
    """Return the columns of imaging_series that the object's own attributes fill."""
    instance = received.instance
    return {
        "series_uid": received.series_instance_uid,
        "modality": received.modality,
        "series_number": small_integer(instance, 0x00200011),
        "series_description": column(instance.text(0x0008103E)),
        "body_part_examined": column(instance.text(0x00180015)),
        "laterality": column(instance.first(0x00200060)),
        "performed_station_ae_title": column(instance.first(0x00400241)),
        "performed_procedure_step_start_date": column(instance.first(0x00400244)),
        "performed_procedure_step_start_time": column(instance.first(0x00400245)),
        "performed_procedure_step_id": column(instance.first(0x00400253)),
        "frame_of_reference_uid": column(instance.first(0x00200052)),
        "station_name": column(instance.text(0x00081010)),
        "manufacturer": column(instance.text(0x00080070)),
        "protocol_name": column(instance.text(0x00181030)),
        "series_date": column(instance.first(0x00080021)),
        "series_time": column(instance.first(0x00080031)),
    }


def object_columns(received: Received) -> dict[str, object]:
    """Return the columns of imaging_objects except its keys."""
    instance, spooled = received.instance, received.spooled
    frames = instance.frames
    image_type = instance.text(0x00080008)
    return {
        "sop_instance_uid": received.sop_instance_uid,
        "sop_class_uid": received.sop_class_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "storage_uri": received.storage_uri,
        "hash": spooled.sha256,
        "dataset_hash": spooled.dataset_hash,
        "byte_size": spooled.byte_size,
        "dataset_offset": spooled.dataset_offset,
        "width": _size(instance.integer(0x00280011)),
        "height": _size(instance.integer(0x00280010)),
        "depth_slices": _size(frames.number_of_frames) if frames.number_of_frames > 1 else None,
        "is_original": not image_type.startswith("DERIVED"),
        "instance_number": small_integer(instance, 0x00200013),
        "number_of_frames": min(frames.number_of_frames, 2**31 - 1),
        "pixel_data_offset": frames.pixel_data_offset,
        "frame_length": frames.frame_length,
        "frame_table": b64encode(frames.table).decode("ascii") if frames.table else None,
        "dicom_json": instance.dicom_json.decode("utf-8"),
        "source_ae_title": received.source.calling_ae_title,
        "document_title": column(instance.text(0x00420010)) or None,
        "content_date": column(instance.first(0x00080023)),
        "content_time": column(instance.first(0x00080033)),
    }


def transaction_columns(
    source: Source, instance: Instance | None, spooled: Spooled | None
) -> dict[str, object]:
    """Return the columns of dicom_transactions that say what was asked and by whom."""
    return {
        "operation": source.door,
        "calling_ae_title": source.calling_ae_title,
        "called_ae_title": source.called_ae_title,
        "remote_address": source.remote_address,
        "sop_class_uid": column(instance.sop_class_uid)[:64] if instance else None,
        "sop_instance_uid": column(instance.sop_instance_uid)[:64] if instance else None,
        "study_instance_uid": column(instance.study_instance_uid)[:64] if instance else None,
        "transfer_syntax_uid": column(instance.transfer_syntax_uid)[:64] if instance else None,
        "byte_size": spooled.byte_size if spooled else None,
    }


def column(text: str) -> str:
    """Return text that a PostgreSQL column can hold: NUL and lone surrogates cannot."""
    return (
        text.replace("\0", "")
        if text.isascii()
        else "".join(c for c in text if c != "\0" and not "\ud800" <= c <= "\udfff")
    )


def small_integer(instance: Instance, tag: int) -> int | None:
    """Return an IS value where it fits its column (PS3.5 6.2: IS is a signed 32-bit number)."""
    value = instance.integer(tag)
    return value if value is not None and -(2**31) <= value < 2**31 else None


def _size(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < 2**31 else None


def birth_date(text: str) -> date | None:
    """Return a DA value as a date, or None when it is none that a person can have."""
    try:
        found = datetime.strptime(text.replace(".", "").replace("-", "")[:8], "%Y%m%d").date()
    except ValueError:
        return None
    return found if 1850 <= found.year < 2200 else None


_TIME = re.compile(r"(\d\d):?(\d\d)?:?(\d\d)?(?:\.(\d{1,6}))?")
_ZONE = re.compile(r"([+-])(\d\d)(\d\d)")


def acquired_at(instance: Instance) -> datetime | None:
    """Return when the first image was acquired, else when the study began; UTC if no zone is said.

    Acquisition DateTime, then Acquisition Date and Time, then Study Date and Time.
    """
    stated = instance.first(0x0008002A)
    zone = _ZONE.search(stated[8:]) or _ZONE.fullmatch(instance.first(0x00080201))
    for day, time in (
        (stated[:8], stated[8:].split("+")[0].split("-")[0]),
        (instance.first(0x00080022), instance.first(0x00080032)),
        (instance.first(0x00080020), instance.first(0x00080030)),
    ):
        began = birth_date(day)
        if began is None:
            continue
        moment = datetime(began.year, began.month, began.day, tzinfo=_offset(zone))
        found = _TIME.match(time)
        if found:
            hour, minute, second, fraction = found.groups(default="0")
            if int(hour) < 24 and int(minute) < 60:
                moment = moment.replace(
                    hour=int(hour),
                    minute=int(minute),
                    second=min(int(second), 59),
                    microsecond=int(fraction.ljust(6, "0")),
                )
        return moment
    return None


def _offset(zone: re.Match[str] | None) -> timezone:
    if zone is None or int(zone[2]) > 14 or int(zone[3]) > 59:
        return UTC
    ahead = timedelta(hours=int(zone[2]), minutes=int(zone[3]))
    return timezone(ahead if zone[1] == "+" else -ahead)


def members(instance: Instance, tags: tuple[int, ...]) -> dict[int, str]:
    """Return the JSON members of these attributes that the object has."""
    return {tag: instance.members[tag] for tag in tags if tag in instance.members}
