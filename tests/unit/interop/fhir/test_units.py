"""UCUM codes: the grammar, the table against the published one, and values at their boundaries."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interop.fhir.search import ucum_table, units
from interop.fhir.search.units import SYSTEM, parse, unit_of

# What the same quantity is in other units, by hand.
EQUAL = [
    ("5.4", "mg", "0.0054", "g"),
    ("120", "mm[Hg]", "12", "cm[Hg]"),
    ("37.0", "Cel", "98.6", "[degF]"),
    ("37.0", "Cel", "310.15", "K"),
    ("-40", "Cel", "-40", "[degF]"),
    ("29.6", "[degRe]", "37", "Cel"),
    ("90", "mg/dL", "0.9", "g/L"),
    ("5", "10*9/L", "5000", "/uL"),
    ("5", "10^9/L", "5", "10*3/uL"),
    ("60", "/min", "1", "Hz"),
    ("72", "{beats}/min", "72", "/min"),
    ("1", "[in_i]", "25.4", "mm"),
    ("1", "[lb_av]", "453.59237", "g"),
    ("6", "[ft_i]", "182.88", "cm"),
    ("45", "%", "0.45", "1"),
    ("1", "U/L", "1", "umol/min/L"),
    ("90", "mL/min/{1.73_m2}", "5.4", "L/h"),
    ("2", "m[IU]/mL", "2", "k[iU]/m3"),
    ("1", "kg.m/s2", "1", "N"),
    ("1", "J/(s.m2)", "1", "W/m2"),
    ("1", "wk", "168", "h"),
    ("10", "dB", "1", "B"),
    ("1", "meq/L", "1", "mmol/L"),
]


@pytest.mark.parametrize(("left", "left_unit", "right", "right_unit"), EQUAL)
def test_one_quantity_is_one_number_whatever_its_unit(
    left: str, left_unit: str, right: str, right_unit: str
) -> None:
    first, second = parse(left_unit), parse(right_unit)

    assert first.dimensions == second.dimensions
    assert first.in_base(Decimal(left)) == second.in_base(Decimal(right))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("[iU]/L", "[arb'U]/L"),
        ("[iU]", "U"),
        ("mmol/L", "10*9/L"),
        ("mmol/L", "mg/dL"),
        ("[pH]", "mol/L"),
        ("dB", "1"),
        ("B[SPL]", "B"),
        ("Cel", "g"),
        ("[CFU]", "[PFU]"),
    ],
)
def test_what_cannot_be_converted_is_kept_apart(left: str, right: str) -> None:
    assert parse(left).name != parse(right).name


@pytest.mark.parametrize(
    "code",
    ["", "mgg", "KG", "mg/", "/", "mg..g", "(mg", "mg)", "m g", "Cel/m", "m.[degF]", "Cel2",
     "k[in_i]", "m99", "m-99", "m1000", "10*99", "mg{", "µg", "m" + ".m" * 64],
)  # fmt: skip
def test_what_is_no_unit_is_compared_as_a_code_only(code: str) -> None:
    assert unit_of(SYSTEM, code) is None


def test_only_the_codes_of_ucum_are_units() -> None:
    assert unit_of(SYSTEM, "mg")
    assert unit_of("urn:other", "mg") is None
    assert unit_of("", "mg") is None
    assert unit_of(SYSTEM, "") is None


def test_every_unit_of_the_table_comes_down_to_base_units() -> None:
    codes = [*units._defined(), *units._apart(), *ucum_table.TEMPERATURES, *ucum_table.SAME]

    assert len(codes) > 290
    for code in codes:
        bases = {base for base, _ in parse(code).dimensions}
        assert bases <= {*ucum_table.BASE, *units._apart()}, code


def test_the_table_says_what_the_reference_values_are() -> None:
    """SI brochure and NIST SP 811, in base units of UCUM (metre, second, gram, kelvin, coulomb)."""
    for code, value in {
        "J": 1e3, "Pa": 1e3, "V": 1e3, "Ohm": 1e3, "atm": 101325e3, "[psi]": 6894757.293168361,
        "cal": 4184, "[HP]": 745699.8715822702, "[gal_us]": 0.003785411784, "a": 31557600,
        "[oz_av]": 28.349523125, "[mi_us]": 1609.3472186944375, "Ci": 37e9, "[c]": 299792458,
        "[Ch]": 1 / 3e3, "[foz_us]": 2.95735295625e-05, "mm[Hg]": 133322,
    }.items():  # fmt: skip
        assert float(parse(code).factor) == pytest.approx(value, rel=1e-14), code


@given(
    st.decimals(min_value=-(10**9), max_value=10**9, places=6),
    st.sampled_from(["mg", "ug", "kg", "mm[Hg]", "Cel", "[degF]", "mmol/L", "[lb_av]"]),
)
def test_values_keep_their_order_in_base_units(value: Decimal, code: str) -> None:
    unit = parse(code)

    assert unit.in_base(value - 1) < unit.in_base(value) < unit.in_base(value + 1)


@given(st.text("mgLdl/.()[]{}*^0123456789-+%uIU", max_size=40))
def test_no_code_takes_long_or_breaks(code: str) -> None:
    unit = unit_of(SYSTEM, code)

    assert unit is None or isinstance(unit.name, str)
