"""One requirement of the standard, the check of it, and what came of the check."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from conformance.peer import Peer

Check = Callable[["Peer"], None]


class Verdict(StrEnum):
    MET = "met"
    NOT_MET = "not met"
    NOT_OFFERED = "not offered"


class NotMet(Exception):
    """The server answers otherwise than the standard asks."""


class NotOffered(Exception):
    """The server says itself that it does not do this; only what is optional may say so."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What the standard asks, where it does, and how it is looked at."""

    service: str
    source: str
    text: str
    is_optional: bool
    check: Check

    @property
    def name(self) -> str:
        return self.check.__name__


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    requirement: Requirement
    verdict: Verdict
    detail: str
    seconds: float


class Service:
    """The requirements of one service, in the order of the checks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requirements: list[Requirement] = []

    def requires(
        self, source: str, text: str, *, is_optional: bool = False
    ) -> Callable[[Check], Check]:
        """Register a check; its docstring is not needed, `text` says what is asked."""

        def register(check: Check) -> Check:
            made = Requirement(self.name, source, text, is_optional, check)
            self.requirements.append(made)
            return check

        return register


def look(requirements: Iterable[Requirement], peer: Peer) -> Iterable[Finding]:
    """Make each check; whatever it raises is the finding, and the next one follows."""
    for requirement in requirements:
        began = time.monotonic()
        verdict, detail = Verdict.MET, ""
        try:
            requirement.check(peer)
        except NotOffered as absent:
            verdict = Verdict.NOT_OFFERED if requirement.is_optional else Verdict.NOT_MET
            detail = str(absent)
        except NotMet as found:
            verdict, detail = Verdict.NOT_MET, str(found)
        except Exception as error:  # a broken answer is a finding too
            verdict, detail = Verdict.NOT_MET, f"{type(error).__name__}: {error}"
        yield Finding(
            requirement, verdict, " ".join(detail.split())[:300], time.monotonic() - began
        )


def expect(condition: object, found: str) -> None:
    """Raise NotMet with what was found unless the condition holds."""
    if not condition:
        raise NotMet(found)


def fail(found: str) -> NoReturn:
    raise NotMet(found)
