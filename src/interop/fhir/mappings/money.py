"""Amounts of money between Money and the columns numeric(12, 2) and an ISO 4217 code.

What a column cannot hold (a negative amount, a third decimal that is not 0) stays in the resource.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from interop.fhir.mappings.concepts import replaced
from interop.fhir.mappings.converters import number

CURRENCY: Final = "USD"
_LIMIT: Final = Decimal(10) ** 10
_CENT: Final = Decimal("0.01")
_ISO_4217: Final = re.compile(r"[A-Z]{3}")


def amount_of(node: Any) -> Decimal | None:
    """The value of a Money that a column can hold."""
    value = number(node.get("value")) if isinstance(node, Mapping) else None
    return in_cents(value)


def in_cents(value: Decimal | None) -> Decimal | None:
    """The value in whole cents, where it is."""
    if value is None or not value.is_finite() or not 0 <= value < _LIMIT:
        return None
    cents = value.quantize(_CENT)
    return cents if cents == value else None


def currency_of(node: Any) -> str | None:
    """The currency of a Money."""
    code = node.get("currency") if isinstance(node, Mapping) else None
    return code if isinstance(code, str) and _ISO_4217.fullmatch(code) else None


def money(value: Decimal, currency: str | None = None) -> dict[str, Any]:
    """A Money; without a currency the one of what it is part of."""
    shown: dict[str, Any] = {"value": value}
    return {**shown, "currency": currency} if currency else shown


@dataclass(frozen=True, slots=True)
class Amount:
    """(amount, currency)."""

    label: str = "Money; no more than two decimals"

    def get(self, node: Any) -> tuple[Decimal, str] | None:
        value = amount_of(node)
        return None if value is None else (value, currency_of(node) or CURRENCY)

    def put(self, value: tuple[Decimal, str], node: Any) -> Any:
        amount, currency = value
        if amount_of(node) == amount:
            return {**node, "currency": currency}
        return replaced(node, **money(amount, currency)) | {"value": amount}
