"""What an expression may ask of its surroundings: the resource, its container, terminology.

R4 fhirpath.html#vars. One Environment serves the expressions of one context element; the bound on
steps is shared by all that belong to one validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from interop.fhir.fhirpath_engine.items import Collection, Item
from interop.fhir.fhirpath_engine.values import UCUM, EvaluationError

MAX_STEPS = 300_000
MAX_TEXT = 1_000_000

CONSTANTS = {
    "ucum": UCUM,
    "sct": "http://snomed.info/sct",
    "loinc": "http://loinc.org",
}


@dataclass(slots=True)
class Budget:
    """How many steps are left. Expressions are written by tenants, and run over what clients send.

    One step is an element that a function looks at, some microseconds.
    """

    left: int = MAX_STEPS

    def text(self, made: str) -> str:
        """A text that an expression made, paid for: they grow by repeating."""
        if len(made) > MAX_TEXT:
            raise EvaluationError(f"a text of more than {MAX_TEXT} characters")
        self.spend(1 + len(made) // 16)
        return made

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise EvaluationError(f"more than {MAX_STEPS} steps")


Resolve = Callable[[str, Item], Item | None]
MemberOf = Callable[[Item, str], bool | None]
ConformsTo = Callable[[Item, str], bool | None]


def _unknown(_item: Item, _url: str) -> bool | None:
    return None


@dataclass(slots=True)
class Environment:
    """`resource` is the one that an expression is about, `root` the one that contains it."""

    resource: Item
    root: Item
    context: Collection = field(default_factory=list)
    resolve: Resolve | None = None
    member_of: MemberOf = _unknown
    conforms_to: ConformsTo = _unknown
    budget: Budget = field(default_factory=Budget)
    index: int = 0
    total: Collection = field(default_factory=list)

    def variable(self, name: str) -> Collection | None:
        """The value of `%name`; None where there is no such variable."""
        found: Any = {
            "resource": self.resource,
            "rootResource": self.root,
        }.get(name)
        if found is not None:
            return [found]
        if name == "context":
            return self.context
        constant = constant_of(name)
        return None if constant is None else [constant]


def constant_of(name: str) -> str | None:
    """The variables that are the same everywhere; vs- and ext- name R4's own definitions."""
    if name.startswith("vs-"):
        return f"http://hl7.org/fhir/ValueSet/{name[3:]}"
    if name.startswith("ext-"):
        return f"http://hl7.org/fhir/StructureDefinition/{name[4:]}"
    return CONSTANTS.get(name)
