"""A profile compiled: closures that report what a resource or element breaks of it.

R4 profiling.html, elementdefinition.html. Only what a profile says beyond its type costs anything:
elements that it leaves as they are have no closure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from interop.fhir.definitions import definitions
from interop.fhir.fhirpath_engine import (
    CHILDREN,
    FhirPathError,
    Item,
    compile_condition,
    is_type,
    navigate,
)
from interop.fhir.fhirpath_engine.moments import Moment
from interop.fhir.fhirpath_engine.values import EvaluationError, order_of, plain
from interop.fhir.references import referenced_type
from interop.fhir.validation.base_rules import bindings_of
from interop.fhir.validation.bindings import shown as shown_codes
from interop.fhir.validation.matching import is_fixed, matches_pattern, shown
from interop.fhir.validation.scope import Check, Rule, Scope
from interop.fhir.validation.slicing import CORE, Matcher, matcher
from interop.fhir.validation.structure import Node, Row, tree

_MANY = "*"


class Profile:
    """A compiled profile: its `check`, and what of it could not be compiled."""

    def __init__(self, url: str, type_: str, rows: Iterable[Row]) -> None:
        """Raises ProfileError."""
        self.url = url
        self.type = type_
        self.problems: list[str] = []
        self._check = _Compiler(self).element(tree(rows, type_), type_, ())

    def check(self, item: Item, scope: Scope) -> None:
        """Report what the item breaks of this profile."""
        if not is_type(item.type, self.type):
            scope.add("structure", f"{self.url} is a profile of {self.type}, not {item.type}", item)
            return
        for check in self._check:
            check(item, scope)


class _Compiler:
    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        # Type path of a backbone element -> its checks, for elements defined by reference to it.
        self._backbones: dict[str, list[Check]] = {}

    # -- one element, whatever stands above it --------------------------------------------

    def element(
        self, node: Node, type_: str, above: tuple[str, ...], path: str = ""
    ) -> list[Check]:
        """What is asked of one item of `node`, of a type that is known ('' where it is not).

        `path` is the element in R4's own definitions, whose binding holds already.
        """
        checks: list[Check] = []
        if "." in type_:
            self._backbones[type_] = checks
        if (fixed := node.fixed()) is not None:
            checks.append(_fixed(*fixed))
        checks += self._binding(node, path) + self._limits(node)
        if rules := self._rules(node):
            checks.append(lambda item, scope: scope.breaks(rules, item))
        checks += self._types(node)
        for name, child in node.children.items():
            if (check := self._children(name, child, type_, above)) is not None:
                checks.append(check)
        checks += self._repeated(node, type_)
        return checks

    def _rules(self, node: Node) -> tuple[Rule, ...]:
        rules = []
        for row in node.row.get("constraint", ()):
            if not isinstance(row, dict) or not isinstance(row.get("expression"), str):
                continue
            try:
                holds = compile_condition(row["expression"])
            except FhirPathError as error:
                self._profile.problems.append(f"{row.get('key')}: {error}")
                continue
            severity = "error" if row.get("severity") == "error" else "warning"
            rules.append(Rule(str(row.get("key")), severity, holds, str(row.get("human"))[:300]))
        return tuple(rules)

    def _binding(self, node: Node, path: str) -> list[Check]:
        binding = node.row.get("binding", {})
        strength, url = binding.get("strength"), binding.get("valueSet")
        if not isinstance(url, str) or strength not in ("required", "extensible"):
            return []
        if bindings_of(path).get(strength, "").partition("|")[0] == url.partition("|")[0]:
            return []
        return [_binding(url, strength == "required")]

    def _limits(self, node: Node) -> list[Check]:
        checks: list[Check] = []
        longest = node.row.get("maxLength")
        if isinstance(longest, int):
            checks.append(_max_length(longest))
        for prefix, sign in (("minValue", 1), ("maxValue", -1)):
            if (limit := node.limit(prefix)) is not None:
                checks.append(_limit(limit, sign))
        return checks

    def _types(self, node: Node) -> list[Check]:
        checks: list[Check] = []
        profiles = [url for type_ in node.types() for url in type_.get("profile", ())]
        profiles = [url for url in profiles if isinstance(url, str) and not _is_plain(url)]
        if profiles:
            checks.append(_one_of(profiles))
        targets = [
            url
            for type_ in node.types()
            if type_.get("code") in ("Reference", "CodeableReference")
            for url in type_.get("targetProfile", ())
        ]
        if targets and CORE + "Resource" not in targets:
            checks.append(_refers_to(targets))
        return checks

    # -- elements below -------------------------------------------------------------------

    def _children(self, name: str, node: Node, owner: str, above: tuple[str, ...]) -> Check | None:
        """What is asked of all items of an element below one item."""
        bare = name.removesuffix("[x]")
        declared = definitions().types.get(owner, {}).get(bare)
        accepted = [str(type_.get("code")) for type_ in node.types()]
        inner_type = _inner_type(declared.types if declared else (), accepted)
        each = self.element(node, inner_type, (*above, inner_type), f"{owner}.{bare}")
        if declared and accepted and declared.is_choice and len(accepted) < len(declared.types):
            each.insert(0, _of_types(accepted))
        slices = self._slices(node, inner_type, above)
        least, most = _cardinality(node)
        if declared and not declared.is_list and most not in (0,):
            most = None  # JSON has no room for more
        is_asked = least > (declared.minimum if declared else 0) or most is not None
        if not each and not slices and not is_asked:
            return None
        find = _finder(bare, owner)

        def check(item: Item, scope: Scope) -> None:
            found = find(item)
            if is_asked:
                _count(len(found), least, most, f"{item.path()}.{bare}", scope)
            for one in found:
                for asked in each:
                    asked(one, scope)
            if slices is not None:
                slices(item, found, scope)

        return check

    def _slices(self, node: Node, type_: str, above: tuple[str, ...]) -> _Slices | None:
        if not node.slices:
            return None
        slicing = node.row.get("slicing")
        if not isinstance(slicing, dict):
            # Differentials leave out how extensions and choices are sliced.
            path = "$this" if node.name.endswith("[x]") else "url"
            kind = "type" if path == "$this" else "value"
            slicing = {"discriminator": [{"type": kind, "path": path}], "rules": "open"}
        found = []
        for name, slice_ in node.slices.items():
            accepted = [str(of.get("code")) for of in slice_.types()]
            of = accepted[0] if len(accepted) == 1 and "." not in type_ else type_
            checks = self.element(slice_, of, above)
            inner = self._slices(slice_, of, above)
            found.append(
                _Slice(name, matcher(slicing, slice_), *_cardinality(slice_), checks, inner)
            )
        name, rules = node.name.removesuffix("[x]"), str(slicing.get("rules"))
        return _Slices(name, rules, found, is_ordered=slicing.get("ordered") is True)

    def _repeated(self, node: Node, type_: str) -> list[Check]:
        """Elements defined by reference to this one or one above (Questionnaire.item.item)."""
        checks: list[Check] = []
        for name, element in definitions().types.get(type_, {}).items():
            of = element.types[0] if element.types else ""
            if name not in node.children and "." in of and of in self._backbones:
                asked = self._backbones[of]
                if of != f"{type_}.{name}" and (asked or of == type_):
                    checks.append(_again(name, asked))
        return checks


class _Slice:
    def __init__(
        self,
        name: str,
        matches: Matcher,
        least: int,
        most: int | None,
        checks: list[Check],
        inner: _Slices | None,
    ) -> None:
        self.name = name
        self.matches = matches
        self.least = least
        self.most = most
        self.checks = checks
        self.inner = inner


class _Slices:
    """The slices of an element."""

    def __init__(self, name: str, rules: str, slices: list[_Slice], *, is_ordered: bool) -> None:
        self._name = name
        self._rules = rules
        self._slices = slices
        self._is_ordered = is_ordered

    def __call__(self, owner: Item, found: list[Item], scope: Scope) -> None:
        rest = found
        is_decided = True
        order: dict[int, int] = {}
        for number, slice_ in enumerate(self._slices):
            answers = [(item, slice_.matches(item, scope)) for item in rest]
            mine = [item for item, answer in answers if answer]
            order |= {id(item): number for item in mine}
            rest = [item for item, answer in answers if not answer]
            is_open = any(answer is None for _, answer in answers)
            is_decided = is_decided and not is_open
            place = f"{owner.path()}.{self._name}:{slice_.name}"
            least = 0 if is_open else slice_.least
            _count(len(mine), least, slice_.most, place, scope)
            for item in mine:
                for check in slice_.checks:
                    check(item, scope)
            if slice_.inner is not None:
                slice_.inner(owner, mine, scope)
        if is_decided:
            self._check_rest(found, rest, scope)
        if self._is_ordered:
            self._check_order([item for item in found if id(item) in order], order, scope)

    def _check_order(self, found: list[Item], order: dict[int, int], scope: Scope) -> None:
        for before, item in itertools.pairwise(found):
            if order[id(item)] < order[id(before)]:
                names = ", ".join(slice_.name for slice_ in self._slices)
                scope.add("structure", f"comes too late; the order is {names}", item)

    def _check_rest(self, found: list[Item], rest: list[Item], scope: Scope) -> None:
        if self._rules == "closed":
            for item in rest:
                names = ", ".join(slice_.name for slice_ in self._slices)
                scope.add("structure", f"is in none of the slices {names}; there are no more", item)
        elif self._rules == "openAtEnd" and rest and found[-len(rest) :] != rest:
            scope.add("structure", "what is in no slice comes last here", rest[0])


# -- single checks ----------------------------------------------------------------------------


def _cardinality(node: Node) -> tuple[int, int | None]:
    least, most = node.row.get("min", 0), node.row.get("max", _MANY)
    is_number = isinstance(most, str) and most.isascii() and most.isdigit() and len(most) < 10
    return (least if isinstance(least, int) else 0), (int(most) if is_number else None)


def _count(count: int, least: int, most: int | None, place: str, scope: Scope) -> None:
    if count < least:
        scope.add("required", f"at least {least} required, found {count}", place)
    elif most is not None and count > most:
        scope.add("structure", f"at most {most} allowed, found {count}", place)


def _inner_type(declared: tuple[str, ...], accepted: list[str]) -> str:
    """The one type that an element below has; '' where it can have several."""
    if len(declared) == 1 and declared[0] != "Resource":
        return declared[0]
    if len(accepted) == 1 and (not declared or accepted[0] in declared or declared == ("*",)):
        return accepted[0]
    return accepted[0] if declared == ("Resource",) and len(accepted) == 1 else ""


def _finder(name: str, owner: str) -> Any:
    """How the items of an element are found; differentials name a choice by its JSON property."""
    known = CHILDREN[owner] if owner else {}
    if known and name not in known:
        for element, forms in known.items():
            if any(key == name for key, *_ in forms):
                return lambda item: [i for i in navigate([item], element) if i.key == name]
    return lambda item: navigate([item], name)


def _fixed(kind: str, value: Any) -> Check:
    same = is_fixed if kind == "fixed" else matches_pattern
    text = shown(value)

    def check(item: Item, scope: Scope) -> None:
        if not same(item.value, value):
            scope.add("value", f"expected {text}" + " at least" * (kind == "pattern"), item)

    return check


def _binding(url: str, is_required: bool) -> Check:
    def check(item: Item, scope: Scope) -> None:
        if not is_required and not scope.with_warnings:
            return
        answer = scope.codes.has(item, url)
        if answer is False:
            severity = "error" if is_required else "warning"
            scope.add("code-invalid", f"{shown_codes(item)} is not in {url}", item, severity)
        elif answer is None and is_required and scope.with_warnings:
            what = f"whether {shown_codes(item)} is in {url} cannot be told here"
            scope.add("not-supported", what, item, "information")

    return check


def _max_length(longest: int) -> Check:
    def check(item: Item, scope: Scope) -> None:
        if isinstance(item.value, str) and len(item.value) > longest:
            scope.add("value", f"at most {longest} characters", item)

    return check


def _limit(limit: Any, sign: int) -> Check:
    word = "least" if sign > 0 else "most"

    def check(item: Item, scope: Scope) -> None:
        value = plain(item)
        wanted = plain(Item(limit, item.type))
        if isinstance(wanted, Moment | int | Decimal | str) or hasattr(wanted, "unit"):
            try:
                order = order_of(value, wanted)
            except EvaluationError:
                return
            if order is not None and order * sign < 0:
                scope.add("value", f"at {word} {shown(limit)}", item)

    return check


def _of_types(accepted: list[str]) -> Check:
    listed = " | ".join(accepted)

    def check(item: Item, scope: Scope) -> None:
        if not any(is_type(item.type, type_) for type_ in accepted):
            scope.add("structure", f"of type {item.type}; accepted: {listed}", item)

    return check


def _is_plain(url: str) -> bool:
    """A profile that says nothing more: a type itself, or one that the base rules keep."""
    name = url.removeprefix(CORE)
    return name in definitions().kinds or name in ("SimpleQuantity", "MoneyQuantity")


def _one_of(profiles: list[str]) -> Check:
    def check(item: Item, scope: Scope) -> None:
        known = [url for url in profiles if scope.library.check_of(url) is not None]
        if len(known) == 1 == len(profiles):
            found = scope.library.check_of(known[0])
            if found is not None and scope.enter(item, known[0]):
                found(item, scope)
        elif known and len(known) == len(profiles):
            answers = [scope.conforms(item, url) for url in known]
            if not any(answer is not False for answer in answers):
                scope.add("structure", f"conforms to none of {', '.join(known)}", item)

    return check


def _refers_to(targets: list[str]) -> Check:
    def check(item: Item, scope: Scope) -> None:
        target = scope.referenced(item)
        named = target.type if target is not None else referenced_type(item.value, {})
        if named is None:
            return
        fitting = []
        for url in targets:
            type_ = scope.library.type_of(url)
            if type_ is None or type_ == named:
                fitting.append(url)
        if not fitting:
            listed = " | ".join(url.rpartition("/")[2] for url in targets)
            scope.add("value", f"a reference to {named}; accepted: {listed}", item)
        elif target is not None and not any(
            _is_plain(url) or scope.conforms(target, url) is not False for url in fitting
        ):
            listed = ", ".join(fitting)
            scope.add("value", f"{target.path()} conforms to none of {listed}", item)

    return check


def _again(name: str, asked: list[Check]) -> Check:
    def check(item: Item, scope: Scope) -> None:
        for one in navigate([item], name):
            for check_one in asked:
                check_one(one, scope)

    return check
