"""The CodeSystems and ValueSets that come with the server (profiles/), read when first asked for.

The text of a package stays in memory (0.6 MB for R4), a definition becomes objects at its first
use: a worker that validates no bindings pays for none.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from interop.fhir.terminology.code_system import CodeSystem, code_system
from interop.fhir.terminology.evaluation import Terminology
from interop.fhir.terminology.value_set import ValueSet, value_set
from interop.r4_tables import profiles_directory

T = TypeVar("T")

_URL = b'{"url":"'


class Table(Generic[T]):
    """Definitions in the lines of a file, by URL. Of two with the same URL the first counts."""

    def __init__(self, path: Path, parse: Callable[[dict[str, Any]], T]) -> None:
        self._parse = parse
        self._text = gzip.decompress(path.read_bytes())
        self._places: dict[str, tuple[int, int]] = {}
        self._parsed: dict[str, T] = {}
        start = 0
        while (end := self._text.find(b"\n", start)) != -1:
            url_start = start + len(_URL)
            url = self._text[url_start : self._text.index(b'"', url_start)].decode()
            self._places.setdefault(url, (start, end))
            start = end + 1

    def get(self, url: str) -> T | None:
        if url not in self._parsed:
            if url not in self._places:
                return None
            start, end = self._places[url]
            self._parsed[url] = self._parse(json.loads(self._text[start:end]))
        return self._parsed[url]

    def __contains__(self, url: str) -> bool:
        return url in self._places

    def urls(self) -> list[str]:
        return list(self._places)


class Package:
    """What one folder of profiles/ defines."""

    def __init__(self, folder: Path) -> None:
        self.code_systems: Table[CodeSystem] = Table(folder / "code-systems.ndjson.gz", code_system)
        self.value_sets: Table[ValueSet] = Table(folder / "value-sets.ndjson.gz", value_set)

    def code_system(self, url: str, version: str) -> CodeSystem | None:
        return self.code_systems.get(url)

    def value_set(self, url: str, version: str) -> ValueSet | None:
        return self.value_sets.get(url)


def packages() -> list[Package]:
    """Every folder of profiles/ with terminology, R4's own first."""
    folders = {path.parent for path in profiles_directory().glob("*/value-sets.ndjson.gz")}
    return [Package(folder) for folder in sorted(folders, key=lambda f: (f.name != "r4", f.name))]


@cache
def terminology() -> Terminology:
    """What comes with the server, the same for every tenant."""
    return Terminology(packages())
