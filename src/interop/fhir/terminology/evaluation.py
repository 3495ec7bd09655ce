"""What a value set holds: membership in three values, and expansion (FHIR R4 valueset.html).

A definition may draw on systems that are not here (SNOMED CT, LOINC, v3 and v2 tables). Membership
then cannot be told (None), which is never the same as no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from interop.fhir.terminology.code_system import CodeSystem, Concept
from interop.fhir.terminology.value_set import Include, PropertyFilter, ValueSet

NotExpandableCode = Literal["not-found", "not-supported", "too-costly"]


class NotExpandable(Exception):
    """A value set that cannot be expanded here; `code` is the issue type that says why."""

    def __init__(self, code: NotExpandableCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Source(Protocol):
    """Definitions by canonical URL; of this version, or where it is empty of the one that counts.

    One of another version is as none.
    """

    def code_system(self, url: str, version: str) -> CodeSystem | None: ...

    def value_set(self, url: str, version: str) -> ValueSet | None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one question may cost."""

    depth: int = 16  # value sets that import value sets
    steps: int = 300_000  # includes read and concepts visited


@dataclass(frozen=True, slots=True)
class Member:
    """A code of a value set, as an expansion shows it."""

    system: str | None
    version: str | None
    code: str
    display: str | None
    is_abstract: bool
    is_inactive: bool


class Terminology:
    """Answers questions about codes from layers of definitions; the first layer counts.

    Holds what it computed. Not for use by several threads at once unless its sources are.
    """

    def __init__(self, sources: Sequence[Source], limits: Limits | None = None) -> None:
        self._sources = tuple(sources)
        self._limits = limits or Limits()
        self._expansions: dict[str, frozenset[tuple[str, str]] | None] = {}

    def beneath(self, *sources: Source) -> Terminology:
        """These definitions with others laid over them."""
        return Terminology((*sources, *self._sources), self._limits)

    def code_system(self, canonical: str) -> CodeSystem | None:
        """The system of this URL; of this version, where the URL names one (`url|version`)."""
        url, _, version = canonical.partition("|")
        for source in self._sources:
            found = source.code_system(url, version)
            if found and version in ("", found.version):
                return found
        return None

    def value_set(self, canonical: str) -> ValueSet | None:
        url, _, version = canonical.partition("|")
        for source in self._sources:
            found = source.value_set(url, version)
            if found and version in ("", found.version):
                return found
        return None

    def display(self, system: str, code: str) -> str | None:
        concept = self.concept(system, code)
        return concept.display if concept else None

    def concept(self, system: str, code: str) -> Concept | None:
        known = self.code_system(system)
        return known.find(code) if known else None

    def descendants(self, system: str, code: str) -> frozenset[str] | None:
        """The code and all below it; None where the system is not known."""
        known = self.code_system(system)
        return known.descendants(code) if known else None

    def ancestors(self, system: str, code: str) -> frozenset[str] | None:
        """The code and all above it; None where the system is not known."""
        known = self.code_system(system)
        return known.ancestors(code) if known else None

    def contains(self, value_set_url: str, system: str | None, code: str) -> bool | None:
        """Whether the value set has the code. None: not known here, or it cannot be told.

        Without a system: whether any system of the value set has a code spelled so.
        """
        try:
            return _Question(self, self._limits).has(value_set_url, system, code)
        except NotExpandable:
            return None

    def expansion(self, value_set_url: str) -> frozenset[tuple[str, str]] | None:
        """All (system, code) of a value set; None where it is not known or not enumerable here."""
        if value_set_url not in self._expansions:
            try:
                members = self.expand(value_set_url)
                found = frozenset((member.system or "", member.code) for member in members)
                self._expansions[value_set_url] = found
            except NotExpandable:
                self._expansions[value_set_url] = None
        return self._expansions[value_set_url]

    def expand(self, value_set_url: str) -> list[Member]:
        """The members in the order of their definition. Raises NotExpandable."""
        return _Question(self, self._limits).members(value_set_url)

    def expand_definition(self, definition: ValueSet) -> list[Member]:
        """The same for a value set that has no URL, or is not the one of its URL."""
        return _Question(self, self._limits).members_of(definition)

    def defines(self, definition: ValueSet, system: str | None, code: str) -> bool | None:
        """`contains` for a value set in hand; raises NotExpandable where it would cost too much."""
        return _Question(self, self._limits).has_by(definition, system, code)


class _Question:
    """One question: what it has cost so far, and what it found about imported value sets."""

    def __init__(self, known: Terminology, limits: Limits) -> None:
        self._known = known
        self._limits = limits
        self._steps = 0
        self._open: list[str] = []  # being looked at: an import of one of them is a cycle
        self._answers: dict[tuple[str, str | None, str], bool | None] = {}
        self._expanded: dict[str, list[Member]] = {}

    # Membership

    def has(self, url: str, system: str | None, code: str) -> bool | None:
        key = (url, system, code)
        if key not in self._answers:
            definition = self._known.value_set(url)
            is_too_deep = len(self._open) >= self._limits.depth or url in self._open
            if definition is None or is_too_deep:
                return None
            self._open.append(url)
            self._answers[key] = self.has_by(definition, system, code)
            self._open.pop()
        return self._answers[key]

    def has_by(self, definition: ValueSet, system: str | None, code: str) -> bool | None:
        if not definition.include:
            return None
        included = _any(self._includes(row, system, code) for row in definition.include)
        if included is False or not definition.exclude:
            return included
        excluded = _any(self._includes(row, system, code) for row in definition.exclude)
        return _all((included, None if excluded is None else not excluded))

    def _includes(self, row: Include, system: str | None, code: str) -> bool | None:
        self._steps += 1
        if self._steps > self._limits.steps:
            return None
        answers: list[bool | None] = []
        if row.system is not None:
            if system is not None and system != row.system:
                return False
            answers.append(self._is_selected(row, row.system, code))
        if False not in answers:
            answers += [self.has(url, system or row.system, code) for url in row.value_sets]
        return _all(answers)

    def _is_selected(self, row: Include, system: str, code: str) -> bool | None:
        if row.withheld:
            return None
        known = self._known.code_system(_versioned(system, row.version))
        concept = known.find(code) if known else None
        if row.concepts is not None:
            return code in row.concepts or bool(concept and concept.code in row.concepts)
        if known is None:
            return None
        if concept is None:
            return False if known.is_complete else None
        return _all(_passes(known, concept, filter_) for filter_ in row.filters)

    # Expansion

    def members(self, url: str) -> list[Member]:
        if url not in self._expanded:
            definition = self._known.value_set(url)
            if definition is None:
                raise NotExpandable("not-found", f"the value set {url!r} is not known here")
            if url in self._open:
                raise NotExpandable("not-supported", f"the value set {url!r} imports itself")
            if len(self._open) >= self._limits.depth:
                raise NotExpandable(
                    "too-costly", f"value sets import each other over {self._limits.depth} levels"
                )
            self._open.append(url)
            self._expanded[url] = self.members_of(definition)
            self._open.pop()
        return self._expanded[url]

    def members_of(self, definition: ValueSet) -> list[Member]:
        if not definition.include:
            raise NotExpandable(
                "not-supported", f"the value set {definition.url!r} says nothing of its content"
            )
        found: dict[tuple[str | None, str], Member] = {}
        for row in definition.include:
            for member in self._selected(row):
                if definition.with_inactive or not member.is_inactive:
                    found.setdefault((member.system, member.code), member)
        return [member for member in found.values() if not self._is_excluded(definition, member)]

    def _is_excluded(self, definition: ValueSet, member: Member) -> bool:
        excluded = _any(
            self._includes(row, member.system, member.code) for row in definition.exclude
        )
        self._spend(len(definition.exclude))
        if excluded is None:
            raise NotExpandable(
                "not-supported",
                f"whether {definition.url!r} excludes {member.system}|{member.code} cannot be told",
            )
        return excluded

    def _selected(self, row: Include) -> Iterator[Member]:
        """The members of one include: of its system or its first value set, in all the others."""
        self._spend(1)
        rest = row.value_sets
        candidates: Iterable[Member]
        if row.system is None:
            if not rest:
                raise NotExpandable("not-supported", "an include names no system and no value set")
            candidates, rest = self.members(rest[0]), rest[1:]
        else:
            candidates = self._of_system(row, row.system)
        for member in candidates:
            self._spend(1)
            held = _all(self.has(url, member.system, member.code) for url in rest)
            if held is None:
                raise NotExpandable(
                    "not-supported", f"whether {', '.join(rest)} has {member.code!r} cannot be told"
                )
            if held:
                yield member

    def _of_system(self, row: Include, system: str) -> Iterator[Member]:
        if row.withheld:
            raise NotExpandable(
                "not-supported",
                f"the list of {row.withheld} codes of {system} is licensed and not shipped; "
                "store the ValueSet and its CodeSystem in the tenant",
            )
        known = self._known.code_system(_versioned(system, row.version))
        if row.concepts is not None:
            for code, display in row.concepts.items():
                concept = known.find(code) if known else None
                yield _member(system, row.version, known, concept, code, display)
            return
        if known is None or known.content in ("not-present", "supplement"):
            raise NotExpandable("not-supported", f"the code system {system!r} is not known here")
        for concept in known.concepts.values():
            self._spend(1 + len(row.filters))
            if self._passes_all(known, concept, row.filters):
                yield _member(system, row.version, known, concept, concept.code, None)

    def _passes_all(
        self, known: CodeSystem, concept: Concept, filters: tuple[PropertyFilter, ...]
    ) -> bool:
        passed = _all(_passes(known, concept, filter_) for filter_ in filters)
        if passed is None:
            named = ", ".join(f"{f.property} {f.operator} {f.value}" for f in filters)
            raise NotExpandable("not-supported", f"the filter {named!r} is not supported")
        return passed

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > self._limits.steps:
            raise NotExpandable(
                "too-costly", f"the expansion takes more than {self._limits.steps:,} steps"
            )


def _versioned(system: str, version: str | None) -> str:
    return f"{system}|{version}" if version else system


def _member(
    system: str,
    version: str | None,
    known: CodeSystem | None,
    concept: Concept | None,
    code: str,
    display: str | None,
) -> Member:
    return Member(
        system=system,
        version=version or (known.version if known else None),
        code=code,
        display=display or (concept.display if concept else None),
        is_abstract=concept is not None and concept.is_abstract,
        is_inactive=concept is not None and concept.is_inactive,
    )


_Test = Callable[[CodeSystem, Concept, str], bool]

# filter-operator of R4. Regular expressions are left out: a client could send one that never ends.
_HIERARCHY: dict[str, _Test] = {
    "is-a": lambda system, concept, value: value in system.ancestors(concept.code),
    "descendent-of": lambda system, concept, value: (
        concept.code != value and value in system.ancestors(concept.code)
    ),
    "is-not-a": lambda system, concept, value: value not in system.ancestors(concept.code),
    "generalizes": lambda system, concept, value: concept.code in system.ancestors(value),
    "in": lambda _, concept, value: concept.code in value.split(","),
    "not-in": lambda _, concept, value: concept.code not in value.split(","),
    "=": lambda _, concept, value: concept.code == value,
}
_ON_CODE = ("concept", "code")


def _passes(system: CodeSystem, concept: Concept, filter_: PropertyFilter) -> bool | None:
    """Whether a concept meets a condition; None for one that is not supported."""
    if not filter_.value:
        return None
    if filter_.property in _ON_CODE and filter_.operator in _HIERARCHY:
        return _HIERARCHY[filter_.operator](system, concept, filter_.value)
    if filter_.property == "parent" and filter_.operator == "=":
        return filter_.value in concept.parents
    if filter_.property == "inactive" and filter_.operator == "=":
        return concept.is_inactive == (filter_.value == "true")
    return None


def _any(answers: Iterable[bool | None]) -> bool | None:
    is_open = False
    for answer in answers:
        if answer:
            return True
        is_open = is_open or answer is None
    return None if is_open else False


def _all(answers: Iterable[bool | None]) -> bool | None:
    is_open = False
    for answer in answers:
        if answer is False:
            return False
        is_open = is_open or answer is None
    return None if is_open else True
