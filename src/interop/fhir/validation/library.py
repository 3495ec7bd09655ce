"""The profiles that the server knows: those of profiles/, and a tenant's own beside them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from interop.fhir import gate
from interop.fhir.definitions import definitions
from interop.fhir.terminology.packages import Table
from interop.fhir.validation.profile import Profile
from interop.fhir.validation.scope import Check
from interop.fhir.validation.slicing import CORE
from interop.fhir.validation.structure import MAX_ELEMENTS, ProfileError, Row
from interop.r4_tables import profiles_directory

Definition = dict[str, Any]
MAX_BASES = 8


class ProfileLibrary:
    """Profiles by canonical URL, compiled at their first use.

    `own` are StructureDefinitions of a tenant. Compiling twice at once makes the same twice, and
    does no harm.
    """

    def __init__(
        self, packages: Iterable[Table[Definition]], own: Mapping[str, Definition] | None = None
    ) -> None:
        self._packages = tuple(packages)
        self._own = {} if own is None else own
        self._compiled: dict[str, Profile | None] = {}
        self.problems: dict[str, str] = {}

    def with_own(self, own: Mapping[str, Definition]) -> ProfileLibrary:
        """These profiles and a tenant's. What was compiled of the packages is shared."""
        return _Layered(self, own)

    def definition(self, canonical: str) -> Definition | None:
        """The StructureDefinition of a URL; of this version, where the URL names one."""
        url, _, version = canonical.partition("|")
        for found in (self._own.get(url), *(table.get(url) for table in self._packages)):
            if found is not None and version in ("", found.get("version", "")):
                return found
        return None

    def profile(self, canonical: str) -> Profile | None:
        """The compiled profile of a URL; None where it is not known or cannot be read."""
        if canonical not in self._compiled:
            definition = self.definition(canonical)
            if definition is None:
                return None
            try:
                self._compiled[canonical] = _compiled(definition, self.definition)
            except ProfileError as error:
                self.problems[canonical] = str(error)
                self._compiled[canonical] = None
        return self._compiled[canonical]

    def check_of(self, url: str) -> Check | None:
        found = self.profile(url)
        return found.check if found else None

    def problem_of(self, url: str) -> str:
        return self.problems.get(url, "")

    def type_of(self, url: str) -> str | None:
        name = url.partition("|")[0].removeprefix(CORE)
        if name in definitions().kinds:
            return name
        definition = self.definition(url)
        return str(definition.get("type")) if definition else None


class _Layered(ProfileLibrary):
    """A tenant's profiles beside a library that is shared by all tenants, and comes first."""

    def __init__(self, below: ProfileLibrary, own: Mapping[str, Definition]) -> None:
        super().__init__((), own)
        self._below = below

    def definition(self, canonical: str) -> Definition | None:
        return self._below.definition(canonical) or super().definition(canonical)

    def profile(self, canonical: str) -> Profile | None:
        if self._below.definition(canonical) is not None:
            return self._below.profile(canonical)
        return super().profile(canonical)


def _compiled(definition: Definition, find: Callable[[str], Definition | None]) -> Profile:
    type_ = definition.get("type")
    if not isinstance(type_, str) or type_ not in definitions().types:
        raise ProfileError(f"{str(type_)[:64]!r} is not a type of R4")
    return Profile(str(definition["url"]), type_, rows_of(definition, find))


def rows_of(definition: Definition, find: Callable[[str], Definition | None]) -> list[Row]:
    """The elements of a profile: its snapshot, or its differential over those of its base.

    Raises ProfileError where the base is not known: what it asks cannot be told.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    current: Definition | None = definition
    while current is not None:
        if isinstance(found := _whole(current), list):
            return found + rows
        rows = _checked(current, "differential") + rows
        base = str(current.get("baseDefinition", ""))
        if base.removeprefix(CORE) in definitions().kinds:
            return rows
        if base in seen or len(seen) > MAX_BASES:
            raise ProfileError("its base definitions go in a circle")
        seen.add(base)
        current = find(base)
        if current is None:
            raise ProfileError(f"its base {base[:200]!r} is not known here")
    return rows


def _whole(definition: Definition) -> list[Row] | None:
    """The elements of a package's table, or of a snapshot."""
    found = definition.get("element")
    return list(found) if found else _checked(definition, "snapshot") or None


def _checked(definition: Definition, part: str) -> list[Row]:
    """The elements in a StructureDefinition. Raises ProfileError unless R4 would take them."""
    found = definition.get(part)
    rows = found.get("element", []) if isinstance(found, dict) else []
    if not isinstance(rows, list) or len(rows) > MAX_ELEMENTS:
        raise ProfileError(f"its {part} is no list of {MAX_ELEMENTS} elements at most")
    for index, row in enumerate(rows):
        if not gate.is_of_type(row, "ElementDefinition"):
            raise ProfileError(f"{part}.element[{index}] is no ElementDefinition of R4")
    return rows


@cache
def library() -> ProfileLibrary:
    """What comes with the server, the same for every tenant."""
    files = sorted(profiles_directory().glob("*/profiles.ndjson.gz"))
    return ProfileLibrary(Table(path, lambda row: row) for path in files)


def urls() -> list[str]:
    """The canonical URLs of the profiles that come with the server."""
    return [
        json.loads(line)["url"]
        for path in sorted(profiles_directory().glob("*/profiles.ndjson.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]
