"""UCUM codes as factors of base units, so that 5.4 mg and 0.0054 g are one quantity.

The grammar is that of UCUM sections 4 to 14: prefixes, products, exponents, factors, parentheses
and annotations. Factors are exact fractions: two ways to write one quantity come to the same
float8, and a search finds at its boundary what it should (docs/decisions, on UCUM).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache, lru_cache

from interop.fhir.search.ucum_table import (
    APART,
    BASE,
    METRIC,
    NOT_METRIC,
    PREFIXES,
    SAME,
    TEMPERATURES,
)

SYSTEM = "http://unitsofmeasure.org"
# What a unit may be; a client's code must not make numbers without end.
LONGEST_CODE = 128
MAX_EXPONENT = 30
REMEMBERED_CODES = 4096

_TOKEN = re.compile(
    r"(?P<annotation>\{[!-z|~]*\})|(?P<sign>[./()])"
    r"|(?P<symbol>10[*^]|(?:\[[!-Z\\^-~]+\]|[A-Za-z%'_])+)(?P<exponent>[+-]?[0-9]{1,2})?"
    r"|(?P<factor>[0-9]{1,12})"
)


class NotAUnit(ValueError):
    """The code is not of UCUM's grammar, or names a unit that UCUM does not have."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as so many of the base units, for scales that begin elsewhere after `zero`."""

    factor: Fraction
    dimensions: tuple[tuple[str, int], ...] = ()
    zero: Fraction = Fraction(0)

    def times(self, other: Unit, sign: int = 1) -> Unit:
        """Raises NotAUnit for degrees, which multiply nothing (UCUM section 22)."""
        if self.zero or other.zero:
            raise NotAUnit("degrees cannot be part of a product")
        powers = dict(self.dimensions)
        for base, power in other.dimensions:
            powers[base] = powers.get(base, 0) + sign * power
        return Unit(self.factor * other.factor**sign, _sorted(powers))

    def power(self, exponent: int) -> Unit:
        if exponent == 1:
            return self
        if self.zero or abs(exponent) > MAX_EXPONENT:
            raise NotAUnit("no such power")
        powers = {base: power * exponent for base, power in self.dimensions}
        return Unit(self.factor**exponent, _sorted(powers))

    @property
    def name(self) -> str:
        """The product of base units, written in one way: g.m-3; 1 for a plain number."""
        return ".".join(b + (str(p) if p != 1 else "") for b, p in self.dimensions) or "1"

    def in_base(self, value: Decimal | int | float) -> float:
        """A value in base units. Raises OverflowError beyond what is a float8."""
        # Integers: dividing them rounds once and correctly, and Fraction takes five times as long.
        over, under = value.as_integer_ratio()
        over, under = over * self.factor.numerator, under * self.factor.denominator
        if self.zero:
            over = over * self.zero.denominator + self.zero.numerator * under
            under *= self.zero.denominator
        return over / under


def _sorted(powers: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((base, power) for base, power in powers.items() if power))


def unit_of(system: str, code: str) -> Unit | None:
    """The unit of a coded quantity; None where it is not one of UCUM."""
    return _known(code) if system == SYSTEM and code and len(code) <= LONGEST_CODE else None


@lru_cache(REMEMBERED_CODES)
def _known(code: str) -> Unit | None:
    try:
        return parse(code)
    except (NotAUnit, ZeroDivisionError):
        return None


def parse(code: str) -> Unit:
    """Read a UCUM code (case sensitive). Raises NotAUnit."""
    parser = _Parser(code)
    unit = parser.term()
    parser.end()
    return unit


class _Parser:
    def __init__(self, code: str) -> None:
        self._code = code
        self._tokens: list[re.Match[str]] = []
        at = 0
        while at < len(code):
            found = _TOKEN.match(code, at)
            if found is None:
                raise NotAUnit(f"{code!r}: not understood from {code[at:]!r}")
            self._tokens.append(found)
            at = found.end()
        self._at = 0

    def term(self) -> Unit:
        """Products and quotients, from left to right."""
        unit = Unit(Fraction(1)).times(self._component(), -1) if self._accept("/") else None
        unit = unit or self._component()
        while True:
            if self._accept("."):
                unit = unit.times(self._component())
            elif self._accept("/"):
                unit = unit.times(self._component(), -1)
            else:
                return unit

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise NotAUnit(f"{self._code!r}: {self._tokens[self._at][0]!r} unexpected")

    def _component(self) -> Unit:
        if self._accept("("):
            unit = self.term()
            if not self._accept(")"):
                raise NotAUnit(f"{self._code!r}: ) expected")
            return unit
        if self._at == len(self._tokens):
            raise NotAUnit(f"{self._code!r}: a unit is expected at the end")
        token = self._tokens[self._at]
        self._at += 1
        if token["symbol"]:
            unit = _atom(token["symbol"]).power(int(token["exponent"] or 1))
        elif token["factor"]:
            unit = Unit(Fraction(int(token["factor"])))
        elif token["annotation"]:
            return Unit(Fraction(1))
        else:
            raise NotAUnit(f"{self._code!r}: {token[0]!r} unexpected")
        if self._at < len(self._tokens) and self._tokens[self._at]["annotation"]:
            self._at += 1
        return unit

    def _accept(self, sign: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at][0] == sign:
            self._at += 1
            return True
        return False


def _atom(symbol: str) -> Unit:
    """A unit by itself, or one that may bear a prefix, with one."""
    unit = _unprefixed(symbol)
    if unit is not None:
        return unit
    for length in (1, 2):
        rest = symbol[length:]
        if symbol[:length] in PREFIXES and rest in _metric():
            unit = _unprefixed(rest)
            assert unit is not None
            prefix = Fraction(Decimal(PREFIXES[symbol[:length]]))
            return Unit(unit.factor * prefix, unit.dimensions, unit.zero)
    raise NotAUnit(f"{symbol!r} is not a unit of UCUM")


@lru_cache(REMEMBERED_CODES)
def _unprefixed(symbol: str) -> Unit | None:
    symbol = SAME.get(symbol, symbol)
    if symbol in BASE or symbol in _apart():
        return Unit(Fraction(1), ((symbol, 1),))
    if symbol in TEMPERATURES:
        over, under, degrees = TEMPERATURES[symbol]
        degree = Fraction(over, under)
        return Unit(degree, (("K", 1),), degree * Fraction(Decimal(degrees)))
    if symbol in _defined():
        value, unit = _defined()[symbol]
        found = parse(unit)
        return Unit(Fraction(Decimal(value)) * found.factor, found.dimensions)
    return None


@cache
def _defined() -> dict[str, tuple[str, str]]:
    entries = f"{METRIC};{NOT_METRIC}".replace("\n", " ").split(";")
    return {code: (value, unit) for code, value, unit in map(str.split, entries)}


@cache
def _apart() -> frozenset[str]:
    return frozenset(APART.replace("*", "").split())


@cache
def _metric() -> frozenset[str]:
    """The units that may bear a prefix."""
    found = {entry.split()[0] for entry in METRIC.replace("\n", " ").split(";")}
    found |= {code[1:] for code in APART.split() if code.startswith("*")}
    found |= {alias for alias, code in SAME.items() if code in found}
    return frozenset(found | {*BASE, "Cel"})
