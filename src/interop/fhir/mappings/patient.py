"""Patient over patients, patient_identifiers and patient_addresses (US Core Patient).

Kept in the row, without a place in the resource: primary_location_id, preferred_contact_method and
patient_addresses.is_primary. A legacy issuer of a DICOM Patient ID that is no URI stands as
`identifier.assigner.display`, for `identifier.system` must be one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.concepts import CodeOf, Coding, Concept, codings, replaced
from interop.fhir.mappings.converters import Codes, Day, Moment, Text
from interop.fhir.mappings.lens import Children, Entry, ResourceMapping
from interop.fhir.mappings.places import FirstAndRest, without_choice
from interop.fhir.mappings.systems import IDENTIFIER_TYPE, LANGUAGE, US_CORE
from interop.fhir.mappings.tables import TableLens
from storage.encryption.columns import INSURANCE_SYSTEMS, NATIONAL_ID_SYSTEMS

GENDERS: Final = Codes({"male": "MALE", "female": "FEMALE", "other": "OTHER", "unknown": "UNKNOWN"})
# US Core birth sex; its codes other than M and F are null flavours.
BIRTH_SEXES: Final = Codes(
    {"M": "MALE", "F": "FEMALE", "OTH": "OTHER", "UNK": "UNKNOWN", "ASKU": "UNKNOWN"}
)
BIRTH_SEX: Final = f"{US_CORE}/us-core-birthsex"
GENDER_IDENTITY: Final = f"{US_CORE}/us-core-genderIdentity"
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:\S+")
_FIRST_DAY: Final = date(1850, 1, 1)
_LAST_DAY: Final = date(2200, 1, 1)


def _type(code: str, display: str) -> Coding:
    return Coding(IDENTIFIER_TYPE, code, display)


IDENTIFIER_TYPES: Final = Concept(
    {
        "MRN": _type("MR", "Medical record number"),
        "INTERNAL": _type("PI", "Patient internal identifier"),
        "INSURANCE_MEMBER": _type("MB", "Member Number"),
        "NATIONAL_ID": _type("NI", "National unique individual identifier"),
        "DSO_GLOBAL_ID": _type("PE", "Living Subject Enterprise Number"),
    },
    {
        "INSURANCE_MEMBER": (_type("SN", "Subscriber Number"),),
        "NATIONAL_ID": (_type("SS", "Social Security number"), _type("NH", "National Health")),
    },
)


@dataclass(frozen=True, slots=True)
class BirthDay(Day):
    """A date of birth that the column can hold."""

    def get(self, node: Any) -> date | None:
        value = Day.get(self, node)
        return value if value and _FIRST_DAY <= value <= _LAST_DAY else None


@dataclass(frozen=True, slots=True)
class PersonName:
    """(prefix, first, middle, last, suffix) of the name that a person goes by."""

    label: str = "prefix, given[0], given[1..], family, suffix of the official or current name"

    def get(self, node: Any) -> tuple[str | None, ...]:
        index = _current(node)
        name = node[index] if index is not None else {}
        first, middle = FirstAndRest("given").get(name)
        return (_joined(name, "prefix"), first, middle, name.get("family"), _joined(name, "suffix"))

    def put(self, value: tuple[str | None, ...], node: Any) -> Any:
        names = list(node or [])
        index = _current(node)
        old = names[index] if index is not None else {"use": "official"}
        new = self._name(value, old)
        if index is None:
            names.append(new)
        elif new is None or not any(value):
            # Whatever would be read in its place is the same person's current name too.
            names = [name for name in names if not (_is_current(name) and any(self.get([name])))]
        else:
            names[index] = new
        return names or None

    def _name(self, value: tuple[str | None, ...], old: Mapping[str, Any]) -> Any:
        prefix, first, middle, last, suffix = value
        # The text would go on saying the old name.
        name = {key: item for key, item in old.items() if key not in ("text", "_text")}
        parts = {"prefix": [prefix] if prefix else None, "family": last or None}
        parts["suffix"] = [suffix] if suffix else None
        keys = ("prefix", "first", "middle", "family", "suffix")
        before = dict(zip(keys, self.get([old]), strict=True))
        after = {"prefix": prefix, "family": last, "suffix": suffix}
        for key, part in parts.items():
            if before[key] == after[key]:
                continue
            name.pop(key, None)
            name.pop(f"_{key}", None)
            if part:
                name[key] = part
        if (before["first"], before["middle"]) != (first, middle):
            name = FirstAndRest("given").put((first, middle), name) or {}
        return name


def _current(names: Any) -> int | None:
    """The index of the official name, else of the first that is not a former or other one."""
    if not isinstance(names, list):
        return None
    for index, name in enumerate(names):
        if isinstance(name, Mapping) and name.get("use") == "official":
            return index
    return next((index for index, name in enumerate(names) if _is_current(name)), None)


def _is_current(name: Any) -> bool:
    others = ("old", "maiden", "nickname", "anonymous", "temp")
    return isinstance(name, Mapping) and name.get("use") not in others


def _joined(name: Mapping[str, Any], part: str) -> str | None:
    return " ".join(item for item in name.get(part) or [] if isinstance(item, str)) or None


@dataclass(frozen=True, slots=True)
class SexAtBirth:
    """The US Core birth sex extension, else the administrative gender."""

    label: str = "extension us-core-birthsex, else gender: " + GENDERS.label

    def get(self, node: JsonObject) -> str | None:
        said = (BIRTH_SEXES.get(item.get("valueCode")) for item in self._extensions(node))
        return next((sex for sex in said if sex), None) or GENDERS.get(node.get("gender"))

    def put(self, value: str | None, node: JsonObject) -> JsonObject:
        result = dict(node)
        said = [item for item in self._extensions(node) if BIRTH_SEXES.get(item.get("valueCode"))]
        others = [item for item in node.get("extension") or [] if item not in said]
        if value is None:
            result.pop("gender", None)
            result["extension"] = others
        elif said or "gender" not in node:
            extension = {"url": BIRTH_SEX, "valueCode": BIRTH_SEXES.put(value, None)}
            result["extension"] = [*others, extension]
            result.setdefault("gender", GENDERS.put(value, None))
        else:
            result["gender"] = GENDERS.put(value, None)
        return {key: item for key, item in result.items() if key != "extension" or item}

    def _extensions(self, node: JsonObject) -> list[JsonObject]:
        return [item for item in node.get("extension") or [] if item.get("url") == BIRTH_SEX]


@dataclass(frozen=True, slots=True)
class GenderIdentity:
    """A CodeableConcept as the words for it."""

    label: str = "text, else display or code"

    def get(self, node: Any) -> str | None:
        if not isinstance(node, Mapping):
            return None
        words = [node.get("text")]
        words += [item.get("display") or item.get("code") for item in codings(node)]
        return next((word for word in words if isinstance(word, str) and word), None)

    def put(self, value: str | None, node: Any) -> Any:
        return value and replaced(node, text=value)


@dataclass(frozen=True, slots=True)
class LifeStatus:
    """(status, deceased_at): deceased[x] wins over active, an absent active means active."""

    label: str = "deceased[x] present = DECEASED, else active false = INACTIVE, else ACTIVE"

    def get(self, node: JsonObject) -> tuple[str, datetime | None]:
        if "deceasedDateTime" in node:
            return "DECEASED", Moment().get(node["deceasedDateTime"])
        if node.get("deceasedBoolean") is True:
            return "DECEASED", None
        return ("INACTIVE" if node.get("active") is False else "ACTIVE"), None

    def put(self, value: tuple[str, datetime | None], node: JsonObject) -> JsonObject:
        status, deceased_at = value
        result = without_choice(node, "deceased")
        if deceased_at is not None:
            return {**result, "deceasedDateTime": Moment().put(deceased_at, None)}
        if status == "DECEASED":
            return {**result, "deceasedBoolean": True}
        return {**result, "active": status == "ACTIVE"}


@dataclass(frozen=True, slots=True)
class IdentifierType:
    """The kind of an identifier; without a type its system tells, or it is taken for an MRN."""

    label: str = (
        "type: "
        + IDENTIFIER_TYPES.label
        + "; no type: system of a national or insurance number, else MRN"
    )

    def get(self, node: JsonObject) -> str | None:
        if node.get("type"):
            return IDENTIFIER_TYPES.get(node["type"])
        system = node.get("system")
        if system in NATIONAL_ID_SYSTEMS:
            return "NATIONAL_ID"
        return "INSURANCE_MEMBER" if system in INSURANCE_SYSTEMS else "MRN"

    def put(self, value: str | None, node: JsonObject) -> JsonObject:
        return {**node, "type": IDENTIFIER_TYPES.put(value, node.get("type"))}


@dataclass(frozen=True, slots=True)
class Assigner:
    """Who assigned an identifier: its system, or a DICOM issuer that is no URI."""

    label: str = "system; what is no URI: assigner.display"

    def get(self, node: JsonObject) -> str | None:
        assigner = node.get("assigner") or {}
        return Text().get(node.get("system")) or Text().get(assigner.get("display"))

    def put(self, value: str | None, node: JsonObject) -> JsonObject:
        result = {key: item for key, item in node.items() if key not in ("system", "assigner")}
        if value is None:
            return result
        if _URI.fullmatch(value):
            return {**result, "system": value}
        return {**result, "assigner": {"display": value}}


@dataclass(frozen=True, slots=True)
class IsPrimary:
    """Whether an identifier is the one to use."""

    label: str = "use usual or official = true"

    def get(self, node: Any) -> bool:
        return node in ("usual", "official")

    def put(self, value: bool, node: Any) -> Any:
        return "usual" if value else (node and "secondary")


def _is_row(identifier: JsonObject) -> bool:
    value, kind = identifier.get("value"), identifier.get("type")
    return bool(Text().get(value)) and (not kind or IDENTIFIER_TYPES.get(kind) is not None)


IDENTIFIERS: Final = Children(
    "patient_identifiers",
    "identifier",
    [
        # The type after the system: a new system must not change what the type says.
        Entry("assigner", "", Assigner()),
        Entry("system", "", IdentifierType()),
        Entry("value", "value", Text()),
        Entry("is_primary", "use", IsPrimary(), default=False),
        Entry("valid_from", "period.start", Day()),
        Entry("valid_until", "period.end", Day()),
    ],
    key=("system", "assigner", "value"),
    admits=_is_row,
)

ADDRESSES: Final = Children(
    "patient_addresses",
    "address",
    [
        Entry(
            "address_use",
            "use",
            Codes(
                {
                    "home": "HOME",
                    "work": "WORK",
                    "temp": "TEMP",
                    "old": "OLD",
                    "billing": "BILLING",
                }
            ),
        ),
        Entry(
            "address_type",
            "type",
            Codes({"physical": "PHYSICAL", "postal": "MAILING", "both": "BOTH"}),
        ),
        Entry(("line1", "line2"), "", FirstAndRest("line", "\n")),
        Entry("city", "city", Text()),
        Entry("district", "district", Text()),
        Entry("state", "state", Text()),
        Entry("postal_code", "postalCode", Text()),
        Entry("country", "country", Text()),
        Entry("valid_from", "period.start", Day()),
        Entry("valid_until", "period.end", Day()),
    ],
)

MAPPING: Final = ResourceMapping(
    "Patient",
    "patients",
    [
        Entry(
            ("name_prefix", "first_name", "middle_name", "last_name", "name_suffix"),
            "name",
            PersonName(),
        ),
        Entry("dob", "birthDate", BirthDay()),
        Entry("sex_at_birth", "", SexAtBirth()),
        Entry(
            "gender_identity",
            f"extension[url={GENDER_IDENTITY}].valueCodeableConcept",
            GenderIdentity(),
        ),
        Entry("contact_email", "telecom[system=email].value", Text()),
        Entry("phone_mobile", "telecom[system=phone,use=mobile].value", Text()),
        Entry("phone_home", "telecom[system=phone,use=home].value", Text()),
        Entry("preferred_language", "communication[preferred=true].language", CodeOf(LANGUAGE)),
        Entry(("status", "deceased_at"), "", LifeStatus()),
    ],
    [IDENTIFIERS, ADDRESSES],
)


def lens(public_url: str | None) -> TableLens:
    return TableLens(MAPPING, parent="patient_id")
