"""FHIRPath trees to Python closures: operators, paths, and the functions that take expressions.

An Evaluator answers a collection, a Predicate true, false or None (FHIRPath's empty); what is a
condition is compiled as a Predicate, so that no collection is made for a yes or no. `focus` is the
collection that names start from and that `$this` is.

Where N1 leaves a bare path in `and`, `or`, `xor`, `implies` empty, it counts as false here, as in
the reference implementation: R4's own `telecom or endpoint` (pd-1) means existence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from interop.fhir.definitions import definitions
from interop.fhir.fhirpath import (
    Call,
    Empty,
    FhirPathError,
    Index,
    Literal,
    MomentLiteral,
    Name,
    Negation,
    Node,
    Operation,
    QuantityLiteral,
    Step,
    TypeTest,
    Union,
    Variable,
    parse,
)
from interop.fhir.fhirpath_engine import conversions, functions
from interop.fhir.fhirpath_engine.environment import Environment, constant_of
from interop.fhir.fhirpath_engine.functions import distinct, has_type, is_true
from interop.fhir.fhirpath_engine.items import Collection, Item, is_type, navigate
from interop.fhir.fhirpath_engine.moments import moment, time_of_day
from interop.fhir.fhirpath_engine.values import (
    Quantity,
    equal,
    equivalent,
    key_of,
    order_of,
    singleton,
    text_of,
)

Evaluator = Callable[[Collection, Environment], Collection]
Predicate = Callable[[Collection, Environment], bool | None]

_PREDICATES = functions.PREDICATES | conversions.PREDICATES
_FUNCTIONS = functions.FUNCTIONS | conversions.FUNCTIONS
_LOGIC = ("and", "or", "xor", "implies")
_ORDER: dict[str, Callable[[int], bool]] = {
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}
_BOOLEAN_CALLS = frozenset(_PREDICATES) | {"exists", "all", "is"}


@lru_cache(maxsize=4096)
def compile_values(expression: str) -> Evaluator:
    """The closure of an expression. Raises FhirPathError, naming what is not supported."""
    try:
        return _values(parse(expression))
    except RecursionError:
        raise FhirPathError(f"{expression[:80]!r} is nested too deep") from None


@lru_cache(maxsize=4096)
def compile_condition(expression: str) -> Predicate:
    """The closure of a condition, as invariants are. Raises FhirPathError."""
    try:
        return _operand(parse(expression))
    except RecursionError:
        raise FhirPathError(f"{expression[:80]!r} is nested too deep") from None


# -- collections -----------------------------------------------------------------------------


def _values(node: Node) -> Evaluator:
    if _is_condition(node):
        return _as_collection(_truth(node))
    match node:
        case Step(of, Name(name)):
            return _child(_values(of), name)
        case Step(of, Index(position)):
            return _nth(_values(of), _values(position))
        case Step(of, Call() as call):
            return _call(call, _values(of))
        case Call():
            return _call(node, _focus)
        case Union(parts):
            return _union([_values(part) for part in parts])
        case TypeTest(of, type_, True):
            return _of_type(_values(of), type_)
        case Negation(of):
            return _arithmetic("*", _constant([-1]), _values(of))
        case Operation(operator, left, right):
            return _arithmetic(operator, _values(left), _values(right))
    return _leaf(node)


def _leaf(node: Node) -> Evaluator:
    match node:
        case Name(name):
            return _start(name)
        case Variable(name):
            return _variable(name)
        case Literal(value):
            return _constant([value])
        case MomentLiteral(text):
            return _constant([time_of_day(text) if text[0] == "T" else moment(text)])
        case QuantityLiteral(value, unit, is_calendar):
            unit = unit.removesuffix("s") if is_calendar else unit
            return _constant([Quantity(value, unit)])
        case Empty():
            return _constant([])
    raise FhirPathError(f"{node} yields no values")


def _is_condition(node: Node) -> bool:
    match node:
        case Operation(operator, _, _):
            return operator not in ("+", "-", "*", "/", "div", "mod", "&")
        case TypeTest(_, _, keeps):
            return not keeps
        case Call(function, _) | Step(_, Call(function, _)):
            return function in _BOOLEAN_CALLS
    return False


def _focus(focus: Collection, _env: Environment) -> Collection:
    return focus


def _constant(values: Collection) -> Evaluator:
    return lambda _focus, _env: values


def _as_collection(condition: Predicate) -> Evaluator:
    def collection(focus: Collection, env: Environment) -> Collection:
        answer = condition(focus, env)
        return [] if answer is None else [answer]

    return collection


def _start(name: str) -> Evaluator:
    if name in definitions().kinds and name[0].isupper():
        return lambda focus, _env: [
            item for item in focus if isinstance(item, Item) and is_type(item.type, name)
        ]
    return lambda focus, _env: navigate(focus, name)


def _child(of: Evaluator, name: str) -> Evaluator:
    return lambda focus, env: navigate(of(focus, env), name)


def _variable(name: str) -> Evaluator:
    if name == "$this":
        return _focus
    if name == "$index":
        return lambda _focus, env: [env.index]
    if name == "$total":
        return lambda _focus, env: env.total
    if (constant := constant_of(name)) is not None:
        return _constant([constant])
    if name in ("resource", "rootResource", "context"):
        return lambda _focus, env: env.variable(name) or []
    raise FhirPathError(f"%{name} is not a variable of R4")


def _nth(of: Evaluator, position: Evaluator) -> Evaluator:
    def nth(focus: Collection, env: Environment) -> Collection:
        at = singleton(position(focus, env))
        return of(focus, env)[at : at + 1] if type(at) is int and at >= 0 else []

    return nth


def _union(parts: list[Evaluator]) -> Evaluator:
    def union(focus: Collection, env: Environment) -> Collection:
        found = [item for part in parts for item in part(focus, env)]
        env.budget.spend(len(found))
        return distinct(found)

    return union


def _of_type(of: Evaluator, type_: str) -> Evaluator:
    return lambda focus, env: [item for item in of(focus, env) if has_type(item, type_)]


def _arithmetic(operator: str, left: Evaluator, right: Evaluator) -> Evaluator:
    if operator == "&":

        def joined(focus: Collection, env: Environment) -> Collection:
            one, other = singleton(left(focus, env)), singleton(right(focus, env))
            return [env.budget.text((text_of(one) or "") + (text_of(other) or ""))]

        return joined

    def computed(focus: Collection, env: Environment) -> Collection:
        one, other = singleton(left(focus, env)), singleton(right(focus, env))
        if one is None or other is None:
            return []
        env.budget.spend(4)  # exact numbers take their time
        return conversions.arithmetic(operator, one, other, env)

    return computed


# -- conditions ------------------------------------------------------------------------------


def _truth(node: Node) -> Predicate:
    match node:
        case Operation(operator, left, right) if operator in _LOGIC:
            return _logic(operator, _operand(left), _operand(right))
        case Operation("=", left, right):
            return _equality(_values(left), _values(right), is_negated=False)
        case Operation("!=", left, right):
            return _equality(_values(left), _values(right), is_negated=True)
        case Operation("~" | "!~" as operator, left, right):
            return _equivalence(_values(left), _values(right), is_negated=operator == "!~")
        case Operation("in", left, right):
            return _membership(_values(left), _values(right))
        case Operation("contains", left, right):
            return _membership(_values(right), _values(left))
        case Operation(operator, left, right) if operator in _ORDER:
            return _comparison(_values(left), _ORDER[operator], _values(right))
        case TypeTest(of, type_, False):
            return _is(_values(of), type_)
        case Step(of, Call() as call):
            return _condition_call(call, _values(of))
        case Call():
            return _condition_call(node, _focus)
    raise FhirPathError(f"{node} is not a condition")


def _operand(node: Node) -> Predicate:
    """A node where true or false is asked for."""
    if _is_condition(node):
        return _truth(node)
    of = _values(node)
    if isinstance(node, Name) or (isinstance(node, Step) and isinstance(node.then, Name)):
        return lambda focus, env: is_true(of(focus, env)) or False
    return lambda focus, env: is_true(of(focus, env))


def _logic(operator: str, left: Predicate, right: Predicate) -> Predicate:
    """N1 6.5: three values, the right side only where the left does not decide."""
    if operator == "and":

        def both(focus: Collection, env: Environment) -> bool | None:
            one = left(focus, env)
            if one is False:
                return False
            other = right(focus, env)
            return other if one or other is False else None

        return both
    if operator == "or":

        def either(focus: Collection, env: Environment) -> bool | None:
            one = left(focus, env)
            if one:
                return True
            other = right(focus, env)
            return other if one is False or other else None

        return either
    if operator == "implies":

        def implies(focus: Collection, env: Environment) -> bool | None:
            one = left(focus, env)
            if one is False:
                return True
            other = right(focus, env)
            return other if one or other else None

        return implies

    def exclusive(focus: Collection, env: Environment) -> bool | None:
        one, other = left(focus, env), right(focus, env)
        return None if one is None or other is None else one is not other

    return exclusive


def _equality(left: Evaluator, right: Evaluator, *, is_negated: bool) -> Predicate:
    def equals(focus: Collection, env: Environment) -> bool | None:
        answer = equal(left(focus, env), right(focus, env))
        return None if answer is None else answer is not is_negated

    return equals


def _equivalence(left: Evaluator, right: Evaluator, *, is_negated: bool) -> Predicate:
    def equivalence(focus: Collection, env: Environment) -> bool:
        one, other = left(focus, env), right(focus, env)
        env.budget.spend(len(one) * len(other))
        return equivalent(one, other) is not is_negated

    return equivalence


def _membership(element: Evaluator, collection: Evaluator) -> Predicate:
    def contains(focus: Collection, env: Environment) -> bool | None:
        wanted = element(focus, env)
        if not wanted:
            return None
        found = collection(focus, env)
        env.budget.spend(len(found))
        keys = {key_of(item) for item in found}
        return all(key_of(item) in keys for item in wanted)

    return contains


def _comparison(left: Evaluator, holds: Callable[[int], bool], right: Evaluator) -> Predicate:
    def compared(focus: Collection, env: Environment) -> bool | None:
        order = order_of(singleton(left(focus, env)), singleton(right(focus, env)))
        return None if order is None else holds(order)

    return compared


def _is(of: Evaluator, type_: str) -> Predicate:
    def tested(focus: Collection, env: Environment) -> bool | None:
        items = of(focus, env)
        return has_type(items[0], type_) if len(items) == 1 else (None if not items else False)

    return tested


# -- functions -------------------------------------------------------------------------------


def _condition_call(call: Call, of: Evaluator) -> Predicate:
    name, arguments = call.function, call.arguments
    if name == "exists" and len(arguments) <= 1:
        if not arguments:
            return lambda focus, env: bool(of(focus, env))
        where = _where(of, _operand(arguments[0]))
        return lambda focus, env: bool(where(focus, env))
    if name == "all" and len(arguments) == 1:
        return _all(of, _operand(arguments[0]))
    if name == "is" and len(arguments) == 1:
        return _is(of, _type_argument(arguments[0]))
    compute, values = _bound(call, _PREDICATES)
    if not values:
        return lambda focus, env: compute(of(focus, env), env)

    def condition(focus: Collection, env: Environment) -> bool | None:
        answer: bool | None = compute(of(focus, env), env, *(value(focus, env) for value in values))
        return answer

    return condition


def _call(call: Call, of: Evaluator) -> Evaluator:
    name, arguments = call.function, call.arguments
    if name in _WITH_EXPRESSIONS:
        least, most, make = _WITH_EXPRESSIONS[name]
        if not least <= len(arguments) <= most:
            raise FhirPathError(f"{name}() takes {least} to {most} arguments")
        return make(of, *arguments)
    compute, values = _bound(call, _FUNCTIONS)
    if not values:
        return lambda focus, env: compute(of(focus, env), env)

    def called(focus: Collection, env: Environment) -> Collection:
        found: Collection = compute(of(focus, env), env, *(value(focus, env) for value in values))
        return found

    return called


def _bound(call: Call, table: Any) -> tuple[Callable[..., Any], list[Evaluator]]:
    if call.function not in table:
        raise FhirPathError(f"{call.function}() is not a function that is supported")
    least, most, compute = table[call.function]
    if not least <= len(call.arguments) <= most:
        raise FhirPathError(f"{call.function}() takes {least} to {most} arguments")
    return compute, [_values(argument) for argument in call.arguments]


def _type_argument(node: Node) -> str:
    match node:
        case Name(name):
            return name
        case Step(Name(namespace), Name(name)):
            return f"{namespace}.{name}"
    raise FhirPathError("a type expected")


def _all(of: Evaluator, condition: Predicate) -> Predicate:
    def every(focus: Collection, env: Environment) -> bool:
        items, outer = of(focus, env), env.index
        env.budget.spend(len(items))
        try:
            for env.index, item in enumerate(items):
                if not condition([item], env):
                    return False
        finally:
            env.index = outer
        return True

    return every


def _where(of: Evaluator, condition: Predicate) -> Evaluator:
    def where(focus: Collection, env: Environment) -> Collection:
        items, outer = of(focus, env), env.index
        if not items:
            return items
        env.budget.spend(len(items))
        found = []
        for env.index, item in enumerate(items):
            if condition([item], env):
                found.append(item)
        env.index = outer
        return found

    return where


def _select(of: Evaluator, projection: Node) -> Evaluator:
    project = _values(projection)

    def select(focus: Collection, env: Environment) -> Collection:
        items, outer = of(focus, env), env.index
        env.budget.spend(len(items))
        found: Collection = []
        for env.index, item in enumerate(items):
            found += project([item], env)
        env.index = outer
        return found

    return select


def _repeat(of: Evaluator, projection: Node) -> Evaluator:
    project = _values(projection)

    def repeat(focus: Collection, env: Environment) -> Collection:
        waiting, found, seen = deque(of(focus, env)), [], set()
        while waiting:
            item = waiting.popleft()
            for value in project([item], env):
                env.budget.spend(1)
                key = _identity(value)
                if key not in seen:
                    seen.add(key)
                    found.append(value)
                    waiting.append(value)
        return found

    return repeat


def _identity(value: Any) -> Any:
    if isinstance(value, Item) and isinstance(value.value, dict):
        return id(value.value)
    return key_of(value)


def _iif(of: Evaluator, *arguments: Node) -> Evaluator:
    condition, then = _operand(arguments[0]), _values(arguments[1])
    otherwise = _values(arguments[2]) if len(arguments) > 2 else _constant([])

    def iif(focus: Collection, env: Environment) -> Collection:
        items = of(focus, env)
        return then(items, env) if condition(items, env) else otherwise(items, env)

    return iif


def _aggregate(of: Evaluator, *arguments: Node) -> Evaluator:
    step = _values(arguments[0])
    first = _values(arguments[1]) if len(arguments) > 1 else _constant([])

    def aggregate(focus: Collection, env: Environment) -> Collection:
        items, outer = of(focus, env), (env.index, env.total)
        env.total = first(focus, env)
        env.budget.spend(len(items))
        for env.index, item in enumerate(items):
            env.total = step([item], env)
        found = env.total
        env.index, env.total = outer
        return found

    return aggregate


# (least arguments, most arguments, maker)
_WITH_EXPRESSIONS: dict[str, tuple[int, int, Callable[..., Evaluator]]] = {
    "where": (1, 1, lambda of, criteria: _where(of, _operand(criteria))),
    "select": (1, 1, _select),
    "repeat": (1, 1, _repeat),
    "ofType": (1, 1, lambda of, type_: _of_type(of, _type_argument(type_))),
    "as": (1, 1, lambda of, type_: _of_type(of, _type_argument(type_))),
    "iif": (2, 3, _iif),
    "trace": (1, 2, lambda of, *_arguments: of),
    "aggregate": (1, 2, _aggregate),
}
