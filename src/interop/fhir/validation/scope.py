"""What one validation knows and has found so far.

A Scope goes with the resource that is validated. `inner` makes one that finds without telling, for
slices and references that ask whether something conforms to a profile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from interop.fhir.fhirpath_engine import (
    Budget,
    Environment,
    EvaluationError,
    Item,
    Predicate,
    navigate,
)
from interop.fhir.outcomes import Issue
from interop.fhir.validation.bindings import Codes

MAX_FOUND = 200
MAX_NESTING = 12  # profiles that ask whether something conforms to a profile that asks ...

Check = Callable[[Item, "Scope"], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """An invariant. `holds` answers None where it cannot be told, which breaks nothing."""

    key: str
    severity: str
    holds: Predicate
    human: str


class Library(Protocol):
    """Where the checks of a profile come from."""

    def check_of(self, url: str) -> Check | None:
        """The compiled profile of a canonical URL; None where it is not known."""
        ...

    def type_of(self, url: str) -> str | None:
        """The resource or data type that a profile constrains; None where it is not known."""
        ...

    def problem_of(self, url: str) -> str:
        """Why a profile that is here cannot be used; '' where it can, or is not here."""
        ...


class _Enough(Exception):
    """So much is wrong that more says nothing; and a quiet scope ends with its first error."""


@dataclass(slots=True)
class Scope:
    """`root` is the outermost resource; `container` holds what fragments refer to."""

    root: Item
    library: Library
    codes: Codes
    with_warnings: bool = True
    with_profiles: bool = True
    is_quiet: bool = False
    nesting: int = 0
    budget: Budget = field(default_factory=Budget)
    issues: list[Issue] = field(default_factory=list)
    entries: dict[str, Item] = field(default_factory=dict)
    answers: dict[tuple[int, str], bool | None] = field(default_factory=dict)
    entered: set[tuple[int, str]] = field(default_factory=set)

    def add(self, code: str, what: str, where: Item | str, severity: str = "error") -> None:
        """Report one thing. Raises _Enough where nobody reads on."""
        if self.is_quiet:
            if severity == "error":
                raise _Enough
            return
        place = where if isinstance(where, str) else where.path()
        self.issues.append(Issue(code, f"{place}: {what}", place, severity))
        if len(self.issues) >= MAX_FOUND:
            raise _Enough

    def run(self, check: Check, item: Item) -> None:
        """Run a check to its end, or to where it is enough."""
        try:
            check(item, self)
        except _Enough:
            return

    def enter(self, item: Item, url: str) -> bool:
        """Whether an item is to be checked by a profile: not a second time."""
        key = (id(item.value), url)
        if key in self.entered:
            return False
        self.entered.add(key)
        return True

    def extension(self, item: Item) -> None:
        """Check an extension whose definition is known."""
        url = item.value.get("url")
        check = self.library.check_of(url) if type(url) is str else None
        if check is not None and self.enter(item, url):
            check(item, self)

    def conforms(self, item: Item, url: str) -> bool | None:
        """Whether an item has no errors by a profile; None where the profile is not known."""
        key = (id(item.value), url)
        if key in self.answers:
            return self.answers[key]
        check = self.library.check_of(url)
        if check is None or self.nesting >= MAX_NESTING:
            return None
        self.answers[key] = None  # a profile that asks for itself has no answer yet
        self.budget.spend(10)
        inner = Scope(
            self.root,
            self.library,
            self.codes,
            with_warnings=False,
            is_quiet=True,
            nesting=self.nesting + 1,
            budget=self.budget,
            entries=self.entries,
            answers=self.answers,
        )
        try:
            check(item, inner)
            self.answers[key] = True
        except _Enough:
            self.answers[key] = False
        return self.answers[key]

    def environment(self, item: Item) -> Environment:
        """What the expressions of an element may ask."""
        resource = root = item
        while resource.parent is not None and "resourceType" not in resource.value_or_empty():
            resource = resource.parent
        root = resource
        while root.key == "contained" and root.parent is not None:
            root = root.parent
        return Environment(
            resource, root, [item], self.resolve, self._member_of, self.conforms, self.budget
        )

    def resolve(self, url: str, root: Item) -> Item | None:
        """The entry of the Bundle that a reference names; None where none does."""
        return self.entries.get(url.partition("|")[0])

    def referenced(self, reference: Item) -> Item | None:
        """What a Reference names, where it is at hand: contained, or in the same Bundle."""
        url = reference.value_or_empty().get("reference")
        if not isinstance(url, str):
            return None
        if not url.startswith("#"):
            return self.entries.get(url)
        container = self.environment(reference).root
        found: list[Any] = navigate([container], "contained")
        return next((item for item in found if item.value.get("id") == url[1:]), None)

    def breaks(self, rules: tuple[Rule, ...], item: Item) -> None:
        """Report the rules that an element breaks."""
        environment = self.environment(item)
        for rule in rules:
            if rule.severity != "error" and not self.with_warnings:
                continue
            try:
                holds = rule.holds(environment.context, environment)
            except EvaluationError as error:
                self.add("invariant", f"{rule.key} cannot be decided: {error}", item, "warning")
                continue
            if holds is False:
                self.add("invariant", f"{rule.human} ({rule.key})", item, rule.severity)

    def _member_of(self, item: Item, url: str) -> bool | None:
        return self.codes.has(item, url)
