"""Reading a QIDO-RS query string (PS3.18 8.3.4): options, matching keys, what is to be returned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from interop.dicom.query.attributes import Level, attribute_of, name_of, path_of, tag_of
from interop.dicom.query.conditions import (
    NO_TAGS,
    PLAIN,
    Condition,
    Rules,
    Tags,
    Test,
    Words,
    condition_of,
    tests_of,
)
from interop.dicom.query.results import MORE, Wanted
from interop.dicom.query.statements import Position, read_position
from interop.dicom.query.values import offset_of
from interop.dicom.received import SERIES_TAGS, STUDY_TAGS
from interop.errors import BadRequest, TooCostly

MAX_LIMIT = {Level.STUDY: 1_000, Level.SERIES: 5_000, Level.INSTANCE: 5_000}
MAX_OFFSET = 10_000_000
FUZZY_WARNING = (
    "The fuzzymatching parameter is only supported for PatientName and ReferringPhysicianName"
    " without wildcards. Only literal matching has been performed."
)
CONTINUATION = "continuation"
_TIMEZONE = (tag_of("TimezoneOffsetFromUTC"),)
# Says how values are encoded, which is UTF-8 in a URL; it is never matched (PS3.4 C.2.2.2).
_CHARACTER_SET = (tag_of("SpecificCharacterSet"),)
_STORED = frozenset(f"{tag:08X}" for tag in (*STUDY_TAGS, *SERIES_TAGS))
_KNOWN = _STORED | MORE[Level.STUDY] | MORE[Level.SERIES]


@dataclass(frozen=True, slots=True)
class Query:
    """A QIDO-RS search, understood."""

    level: Level
    conditions: tuple[Condition, ...] = ()
    include: frozenset[str] = frozenset()
    include_all: bool = False
    limit: int = 0
    offset: int = 0
    after: Position | None = None
    rules: Rules = PLAIN
    warnings: tuple[str, ...] = field(default=())

    @property
    def tests(self) -> tuple[Test, ...]:
        """The conditions, with dates and times as PS3.18 8.3.4.1.1 has them matched: combined."""
        return tests_of(self.conditions, self.rules)

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.include, self.include_all)


@dataclass(slots=True)
class Draft:
    """A query while its parameters are read."""

    level: Level
    limit: int
    offset: int = 0
    after: Position | None = None
    fuzzy: bool = False
    empty_values: bool = False
    multiple_values: bool = False
    timezone: int | None = None
    include_all: bool = False
    include: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    keys: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def names_unknown(self) -> bool:
        """Whether a key or included field may be one of the tenant's query tags."""
        if any(len(path) > 1 or attribute_of(path) is None for path in self.keys):
            return True
        if self.level is Level.INSTANCE:
            return False
        named = {path[0] for path in self.keys}
        return self.include_all or not self.include - named <= _KNOWN


def understood(draft: Draft, tags: Tags = NO_TAGS) -> Query:
    """Make conditions of the keys. Raises BadRequest.

    `tags` are the tenant's query tags that are ready; `Draft.names_unknown` says whether they
    matter.
    """
    level = draft.level
    rules = Rules(draft.fuzzy, draft.empty_values, draft.multiple_values, draft.timezone)
    found = [condition_of(level, path, value, rules, tags) for path, value in draft.keys.items()]
    conditions = tuple(condition for condition in found if condition is not None)
    if draft.fuzzy and not any(isinstance(one.matcher, Words) for one in conditions):
        draft.warnings.insert(0, FUZZY_WARNING)
    return Query(
        level,
        conditions,
        frozenset(draft.include),
        draft.include_all,
        draft.limit,
        draft.offset,
        draft.after,
        rules,
        tuple(draft.warnings),
    )


def read_parameters(level: Level, parameters: Iterable[tuple[str, str]]) -> Draft:
    """Tell options from keys, and read the options. Raises BadRequest."""
    draft = Draft(level, MAX_LIMIT[level])
    for name, value in parameters:
        if not _read_option(draft, name, value):
            _read_key(draft, name, value)
    if draft.offset and draft.after is not None:
        raise BadRequest(f"give offset or {CONTINUATION}, not both")
    return draft


def _read_option(draft: Draft, name: str, value: str) -> bool:
    """Read a parameter that is not an attribute; False when it is one."""
    match name:
        case "accept" | "charset":
            pass
        case "limit":
            draft.limit = _count(name, value)
            most = MAX_LIMIT[draft.level]
            if draft.limit > most:
                draft.limit = most
                draft.warnings.append(f"limit was reduced to {most}, the most that is served")
        case "offset":
            draft.offset = _count(name, value)
        case "continuation":
            draft.after = read_position(draft.level, value)
        case "fuzzymatching":
            draft.fuzzy = _claim(name, value)
        case "emptyvaluematching":
            draft.empty_values = _claim(name, value)
        case "multiplevaluematching":
            draft.multiple_values = _claim(name, value)
        case "includefield":
            draft.include_all |= _include(value, draft.include)
        case _:
            return False
    return True


def _read_key(draft: Draft, name: str, value: str) -> None:
    path = path_of(name)
    if path == _TIMEZONE:
        draft.timezone = _timezone(value)
        return
    if path == _CHARACTER_SET:
        return
    if path in draft.keys:
        raise BadRequest(f"{name_of(path)} is given twice; give one value or a list")
    draft.keys[path] = value
    # What is asked for is also returned (PS3.18 10.6.3.3).
    draft.include.add(path[0])


def _timezone(value: str) -> int | None:
    """The zone of the dates and times of a query; a plus sign in a URL arrives as a space."""
    text = f"+{value.strip()}" if value.strip().isdigit() else value.strip()
    offset = offset_of(text)
    if offset is None and text:
        raise BadRequest(
            f"TimezoneOffsetFromUTC={value[:40]!r} is not valid; expected &ZZXX such as +0100"
            " (in a URL: %2B0100)"
        )
    return offset


def _count(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise BadRequest(f"{name}={value[:40]!r} must be a whole number, 0 or more")
    number = int(value)
    if name == "offset" and number > MAX_OFFSET:
        raise TooCostly(f"offset must not be above {MAX_OFFSET}; narrow the query instead")
    return number


def _claim(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise BadRequest(f"{name}={value[:40]!r} must be true or false")
    return value.lower() == "true"


def _include(value: str, include: set[str]) -> bool:
    """Add the attributes of one includefield; True when it is `all`."""
    for name in filter(None, (part.strip() for part in value.split(","))):
        if name == "all":
            return True
        try:
            include.add(path_of(name)[0])
        except BadRequest as error:
            raise BadRequest(
                f"includefield={name[:80]!r} is not known; expected an attribute keyword such as "
                "StudyDescription, its tag such as 00081030, a path of such, or all"
            ) from error
    return False
