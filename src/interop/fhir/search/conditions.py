"""From the clauses of a search to conditions on search rows: what values of each type mean.

FHIR R4 search.html 3.1.1.4.3 to 3.1.1.4.13.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

from interop.errors import BadRequest
from interop.fhir.definitions import SearchParameter
from interop.fhir.references import parse_target
from interop.fhir.search.clauses import Clause, hierarchy_of, split_values, unescape
from interop.fhir.search.code_sets import MODIFIERS as CODE_SET_MODIFIERS
from interop.fhir.search.code_sets import CodeSets
from interop.fhir.search.converters import OF_TYPE, TEXT
from interop.fhir.search.extraction import (
    component_name,
    component_tables,
    reads_identifiers,
)
from interop.fhir.search.full_text import (
    FULL_TEXT,
    Either,
    Every,
    Sought,
    Without,
    Words,
    has_digit,
    sought,
)
from interop.fhir.search.units import unit_of
from interop.fhir.search.values import (
    INDEXED_CHARACTERS,
    approximate_interval,
    date_interval,
    exact_key,
    expiry_margin,
    fold,
    grams,
    parse_number,
    phonetic_words,
    precision_interval,
    shifted,
)
from storage.resource_search import ByIndex, RowCondition, SearchStatement

# Longer URIs are indexed by their first characters and a digest.
LONGEST_URL_BELOW = 64
MOST_URLS_ABOVE = 100

# Another resource of a statement, and the conditions of who may see it.
Other = Callable[[SearchStatement, str], tuple[SearchStatement, list[str]]]

PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")

_PREFIX = re.compile(r"(?P<prefix>[a-z]{2})?(?P<rest>.*)", re.DOTALL)
_RESOURCE_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")

# near: miles and metres beside kilometres (UCUM).
_KILOMETRES = {"km": 1.0, "m": 0.001, "[mi_us]": 1.609347, "[mi_i]": 1.609344, "": 1.0}


class Conditions:
    """Adds the conditions of clauses to a statement. `own_base` is this tenant's FHIR base URL.

    `blind` makes of a number what stands for it where it is indexed blindly (see `sensitive`).
    `code_sets` has the codes of the clauses that need them (see `code_sets`). `other` makes another
    resource of the statement, with the conditions of who may see it: the steps of a hierarchy.
    """

    def __init__(
        self,
        statement: SearchStatement,
        own_base: str,
        blind: Callable[[str], str] | None = None,
        code_sets: CodeSets | None = None,
        other: Other | None = None,
    ) -> None:
        self._statement = statement
        self._own_base = own_base
        self._blind = blind
        self._code_sets = code_sets or {}
        self._other = other

    def add(self, clause: Clause) -> None:
        """Require one clause. Raises BadRequest for a value that its type does not have."""
        statement = self._statement
        if clause.parameter.code == "_id":
            statement.conditions.append(statement.ids([unescape(v) for v in clause.values]))
        elif clause.modifier == "missing":
            statement.conditions.append(self._missing(clause))
        else:
            found = self._alternatives(clause)
            condition = found[0] if len(found) == 1 else f"({' OR '.join(found)})"
            negated = clause.modifier in ("not", "not-in")
            statement.conditions.append(f"NOT {condition}" if negated else condition)

    def compared(self, clause: Clause, operator: str) -> str:
        """Some row of the clause's parameter compares so with its one value (search_filter.html).

        `ne` asks for a row of another value, `eq` and `ew` for a text or its end, `po` for a
        period that overlaps. Raises BadRequest for a value that the type does not have.
        """
        statement, parameter, value = self._statement, clause.parameter, clause.values[0]
        if parameter.code == "_id":
            return f"NOT {statement.ids([unescape(value)])}"
        if operator == "ew":
            folded = _folded(unescape(value), clause)
            ends = statement.exists("string", parameter.code, statement.text_end(folded))
            return f"({' AND '.join([*statement.contains_grams(grams(folded)), ends])})"
        if operator == "po":
            _, low, high = self._moment(value, clause)
            condition = statement.date("po", low, high)
        elif parameter.type == "string":
            condition = statement.text(_folded(unescape(value), clause))
        else:
            condition = self._row(parameter.type, value, clause)
        if operator != "ne":
            return statement.exists(parameter.type, parameter.code, condition)
        return statement.exists(parameter.type, parameter.code, lambda s: f"NOT ({condition(s)})")

    def _missing(self, clause: Clause) -> str:
        parameter = clause.parameter
        wanted = clause.values[0]
        if len(clause.values) != 1 or wanted not in ("true", "false"):
            raise BadRequest(f"{clause.name}={','.join(clause.values)[:64]}; accepted: true, false")
        table, name = parameter.type, parameter.code
        if parameter.type == "composite":
            table = component_tables(self._statement.resource_type, parameter)[0]
            name = component_name(parameter.code, 0)
        elif parameter.type == "special":
            table, name = "number", f"{parameter.code}.latitude"
        there = self._statement.exists(table, name, None)
        return f"NOT {there}" if wanted == "true" else there

    def _alternatives(self, clause: Clause) -> list[str]:
        parameter, statement = clause.parameter, self._statement
        if parameter.code == "_lastUpdated":
            return [statement.last_updated(*self._moment(value, clause)) for value in clause.values]
        if parameter.code in FULL_TEXT:
            return [self._full_text(value, clause) for value in clause.values]
        if parameter.type == "special":
            return [self._near(value) for value in clause.values]
        if parameter.type == "composite":
            return [self._composite(value, clause) for value in clause.values]
        if parameter.type == "string" and clause.modifier == "contains":
            return [self._contains(unescape(value), clause) for value in clause.values]
        if parameter.type == "token" and clause.modifier == "text":
            texts = [statement.text_word(_folded(unescape(v), clause)) for v in clause.values]
            return [statement.exists("string", parameter.code + TEXT, _any(texts))]
        if parameter.type == "token" and clause.modifier in CODE_SET_MODIFIERS:
            return [statement.exists("token", parameter.code, self._of_code_set(clause))]
        name = parameter.code + (OF_TYPE if clause.modifier == "of-type" else "")
        plain = self._plain_codes(clause)
        if plain:
            return [statement.exists("token", name, statement.codes(plain))]
        conditions = [self._row(parameter.type, value, clause) for value in clause.values]
        return [statement.exists(parameter.type, name, _any(conditions))]

    def _full_text(self, value: str, clause: Clause) -> str:
        if self._other is None:
            raise BadRequest(f"{clause.name} cannot be used here")
        wanted = sought(unescape(value), clause.name)
        return self._statement.has_words(self._words(wanted, FULL_TEXT[clause.parameter.code]))

    def _words(self, wanted: Sought, column: str) -> RowCondition:
        match wanted:
            case Words(text, is_prefix):
                found = [self._statement.words(column, text, is_prefix=is_prefix)]
                if self._blind is not None:
                    # In a sealed resource the words with a digit stand blindly.
                    blind = [self._blind(w) if has_digit(w) else w for w in text.split()]
                    found.append(
                        self._statement.words(column, " ".join(blind), is_prefix=is_prefix)
                    )
                return _any(found)
            case Without(part):
                negated = self._words(part, column)
                return lambda w: f"NOT ({negated(w)})"
            case Either(parts):
                return _any([self._words(part, column) for part in parts])
            case Every(parts):
                return _all([self._words(part, column) for part in parts])

    def _plain_codes(self, clause: Clause) -> list[str]:
        """Codes without systems become one = ANY, which plans far better than many ORs."""
        if clause.parameter.type != "token" or clause.modifier == "of-type":
            return []
        parts = [split_values(value, "|") for value in clause.values]
        if len(parts) < 2 or any(len(part) != 1 for part in parts):
            return []
        codes = [unescape(part[0]) for part in parts]
        blind = [number for code in codes if (number := self._blinded(code, clause))]
        return [exact_key(code) for code in codes] + blind

    def _row(self, type_: str, value: str, clause: Clause) -> RowCondition:
        readers: dict[str, Callable[[str, Clause], RowCondition]] = {
            "token": self._token,
            "string": self._string,
            "reference": self._reference,
            "date": self._date,
            "number": self._number,
            "quantity": self._quantity,
            "uri": self._uri,
        }
        return readers[type_](value, clause)

    def _of_code_set(self, clause: Clause) -> RowCondition:
        codes = self._code_sets.get((self._statement.resource_type, clause))
        if codes is None:
            raise BadRequest(f"the modifier :{clause.modifier} cannot be used here")
        found = [
            self._statement.codes_of(system, sorted(map(exact_key, codes[system])))
            for system in codes
        ]
        return _any(found) if found else lambda _: "false"

    # -- by type ------------------------------------------------------------------------

    def _token(self, value: str, clause: Clause) -> RowCondition:
        parts = [unescape(part) for part in split_values(value, "|")]
        if clause.modifier == "of-type":
            if len(parts) != 3 or not all(parts[1:]):
                raise BadRequest(f"{clause.name}: expected <type system>|<type code>|<value>")
            blind = self._blinded(parts[2], clause)
            typed = [exact_key(f"{parts[1]}|{number}") for number in (parts[2], blind) if number]
            return self._token_of(exact_key(parts[0]) or None, typed)
        system, code = _system_and_code(parts, clause)
        blind = self._blinded(parts[-1], clause)
        return self._token_of(system, [item for item in (code, blind) if item is not None])

    def _token_of(self, system: str | None, codes: list[str]) -> RowCondition:
        """One of the codes; any where there are none."""
        if len(codes) < 2:
            return self._statement.token(system, codes[0] if codes else None)
        of_codes = self._statement.codes(codes)
        if system is None:
            return of_codes
        of_system = self._statement.token(system, None)
        return lambda s: f"{of_codes(s)} AND {of_system(s)}"

    def _blinded(self, number: str, clause: Clause) -> str | None:
        """What a number is indexed as where it is sensitive; None: here no number is."""
        if self._blind is None or not number:
            return None
        is_identifier = clause.modifier == "identifier" or reads_identifiers(
            self._statement.resource_type, clause.parameter.code
        )
        return self._blind(number) if is_identifier else None

    def _string(self, value: str, clause: Clause) -> RowCondition:
        text = unescape(value)
        folded = _folded(text, clause)
        if clause.modifier == "exact":
            return self._statement.text_exact(fold(text)[:INDEXED_CHARACTERS], text)
        if clause.parameter.code == "phonetic":
            codes = phonetic_words(text)
            if len(codes) != 1:
                raise BadRequest("phonetic: expected one word")
            return self._statement.text_prefix(codes[0])
        return self._statement.text_prefix(folded)

    def _contains(self, text: str, clause: Clause) -> str:
        folded = _folded(text, clause)
        statement = self._statement
        found = statement.exists("string", clause.parameter.code, statement.text_contains(folded))
        together = [*statement.contains_grams(grams(folded)), found]
        return f"({' AND '.join(together)})"

    def _reference(self, value: str, clause: Clause) -> RowCondition:
        text = unescape(value)
        if clause.modifier == "identifier":
            parts = [unescape(part) for part in split_values(value, "|")]
            system, number = _system_and_code(parts, clause)
            found = self._statement.reference_identifier(system, number)
            blind = self._blinded(parts[-1], clause)
            if blind is None:
                return found
            return _any([found, self._statement.reference_identifier(system, blind)])
        if clause.modifier in ("above", "below"):
            return self._related(text, clause)
        targets = clause.parameter.targets
        if clause.modifier:
            targets = (clause.modifier,)
        target = parse_target(text)
        if target.is_local(self._own_base):
            types = [target.resource_type]
            if clause.modifier and target.resource_type != clause.modifier:
                raise BadRequest(f"{clause.name}={value[:64]}: the value is of another type")
            return self._statement.reference_to(target.resource_id, types)
        if _RESOURCE_ID.fullmatch(text):
            return self._statement.reference_to(text, targets)
        url, _, version = text.partition("|")
        if ":" not in url:
            raise BadRequest(
                f"{clause.name}={value[:64]!r}; expected an id, <type>/<id> or an absolute URL"
            )
        return self._statement.reference_url(
            exact_key(url), exact_key(version) if version else None
        )

    def _related(self, text: str, clause: Clause) -> RowCondition:
        """search.html 3.1.1.4.13: transitively through a hierarchy, or by a part of a version."""
        url, bar, version = text.partition("|")
        if clause.modifier == "below" and bar and ":" in url:
            return self._statement.reference_version_below(exact_key(url), version)
        target = parse_target(text)
        if target.resource_type and not target.is_local(self._own_base):
            raise BadRequest(
                f"{clause.name}={text[:64]!r}: only a hierarchy of this server is known"
            )
        types = (target.resource_type,) if target.resource_type else clause.parameter.targets
        named = [type_ for type_ in types if hierarchy_of(type_)]
        if len(named) != 1 or not _RESOURCE_ID.fullmatch(target.resource_id or text):
            kinds = ", ".join(t for t in clause.parameter.targets if hierarchy_of(t)) or "no type"
            raise BadRequest(
                f"{clause.name}={text[:64]!r}; expected <type>/<id> of a type that has a hierarchy "
                f"({kinds}), or with :below <canonical>|<beginning of a version>"
            )
        if self._other is None:
            raise BadRequest(f"the modifier :{clause.modifier} cannot be used here")
        other, visible = self._other(self._statement, named[0])
        parent = hierarchy_of(named[0])
        assert parent is not None
        resource_id = target.resource_id or text
        return self._statement.reference_within(
            other, parent, resource_id, visible, upwards=clause.modifier == "above"
        )

    def _uri(self, value: str, clause: Clause) -> RowCondition:
        text = unescape(value)
        if clause.modifier not in ("above", "below"):
            return self._statement.uri(exact_key(text))
        if not text.startswith(("http://", "https://")):
            raise BadRequest(
                f"{clause.name}={text[:64]!r}: only http(s) URLs have something above or below"
            )
        if clause.modifier == "above":
            return self._statement.uris([exact_key(part) for part in urls_above(text)])
        if len(text) > LONGEST_URL_BELOW:
            raise BadRequest(f"{clause.name}: at most {LONGEST_URL_BELOW} characters")
        below = self._statement.text_prefix(text if text.endswith("/") else text + "/")
        return _any([self._statement.uri(text), below])

    def _date(self, value: str, clause: Clause) -> RowCondition:
        return self._statement.date(*self._moment(value, clause))

    def _moment(self, value: str, clause: Clause) -> tuple[str, datetime, datetime]:
        prefix, rest = _prefixed(unescape(value))
        try:
            low, high = date_interval(rest)
        except ValueError as error:
            raise BadRequest(f"{clause.name}: {error}") from None
        if prefix == "ap":
            margin = expiry_margin((low, high), datetime.now(UTC))
            low, high = shifted(low, -margin), shifted(high, margin)
        return prefix, low, high

    def _number(self, value: str, clause: Clause) -> RowCondition:
        prefix, number = _number_value(unescape(value), clause)
        return self._statement.number(prefix, float(number), *_interval(prefix, number))

    def _quantity(self, value: str, clause: Clause) -> RowCondition:
        parts = [unescape(part) for part in split_values(value, "|")]
        if len(parts) not in (1, 3):
            raise BadRequest(f"{clause.name}={value[:64]!r}; expected <number>[|<system>|<code>]")
        prefix, number = _number_value(parts[0], clause)
        bounds = _decimal_interval(prefix, number)
        if len(parts) == 3 and (known := unit_of(parts[1], parts[2])):
            try:
                low, exact, high = map(known.in_base, (bounds[0], number, bounds[1]))
            except OverflowError:
                raise BadRequest(
                    f"{clause.name}={value[:64]!r} is beyond what is indexed"
                ) from None
            return self._statement.in_base_units(known.name, prefix, exact, low, high)
        of_number = self._statement.number(prefix, float(number), *_interval(prefix, number))
        if len(parts) == 1 or not parts[2]:
            return of_number
        unit = self._statement.unit(exact_key(parts[1]) or None, exact_key(parts[2]))
        return lambda s: f"{of_number(s)} AND {unit(s)}"

    def _composite(self, value: str, clause: Clause) -> str:
        parameter = clause.parameter
        parts = split_values(value, "$")
        tables = component_tables(self._statement.resource_type, parameter)
        if len(parts) != len(parameter.components) or not all(parts):
            shape = "$".join(f"<{code}>" for code, _, _ in parameter.components)
            raise BadRequest(f"{clause.name}={value[:64]!r}; expected {shape}")
        rows: list[tuple[str, str, RowCondition | None]] = []
        for index, (part, table) in enumerate(zip(parts, tables, strict=True)):
            code = parameter.components[index][0]
            component = SearchParameter("", f"{parameter.code} ({code})", table, "", (), ())
            inner = Clause(component, None, (part,))
            name = component_name(parameter.code, index)
            rows.append((table, name, self._row(table, part, inner)))
        return self._statement.exists_together(rows)

    def _near(self, value: str) -> str:
        parts = [unescape(part) for part in split_values(value, "|")]
        expected = "expected <latitude>|<longitude>[|<distance>[|km or m or [mi_us]]]"
        if not 2 <= len(parts) <= 4:
            raise BadRequest(f"near={value[:64]!r}; {expected}")
        try:
            latitude, longitude = (float(parse_number(part)) for part in parts[:2])
            distance = float(parse_number(parts[2])) if len(parts) > 2 and parts[2] else 10.0
            kilometres = distance * _KILOMETRES[parts[3] if len(parts) > 3 else ""]
        except (ValueError, KeyError):
            raise BadRequest(f"near={value[:64]!r}; {expected}") from None
        if abs(latitude) > 90 or abs(longitude) > 180 or not 0 <= kilometres <= 20040:
            raise BadRequest(f"near={value[:64]!r} is not a place and distance on Earth")
        return self._statement.near(latitude, longitude, kilometres)


def urls_above(url: str) -> list[str]:
    """The URL, and those of its paths that end at one of its slashes, with that and without."""
    found = [url]
    start = url.index("//") + 2
    for at in range(len(url) - 1, start, -1):
        if url[at] == "/":
            found += [url[: at + 1], url[:at]]
        if len(found) > MOST_URLS_ABOVE:
            raise BadRequest(f"{url[:64]!r} has too many parts")
    return list(dict.fromkeys(found))


def _any(conditions: list[RowCondition]) -> RowCondition:
    if len(conditions) == 1:
        return conditions[0]
    by_index = [one for one in conditions if isinstance(one, ByIndex)]
    if len(by_index) == len(conditions):
        return ByIndex(
            " OR ".join(f"({one.text})" for one in by_index),
            tuple(value for one in by_index for value in one.values),
            all(one.in_order for one in by_index),
        )
    return lambda s: " OR ".join(f"({condition(s)})" for condition in conditions)


def _all(conditions: list[RowCondition]) -> RowCondition:
    return lambda s: " AND ".join(f"({condition(s)})" for condition in conditions)


def _folded(text: str, clause: Clause) -> str:
    folded = fold(text)
    if not folded:
        raise BadRequest(f"{clause.name} has no letters or digits to look for")
    if len(folded) > INDEXED_CHARACTERS and clause.modifier != "exact":
        raise BadRequest(f"{clause.name}: at most {INDEXED_CHARACTERS} characters are indexed")
    return folded


def _system_and_code(parts: list[str], clause: Clause) -> tuple[str | None, str | None]:
    """`code`, `system|code`, `|code` (no system) and `system|` (any code)."""
    if len(parts) == 1:
        return None, exact_key(parts[0])
    if len(parts) != 2 or not any(parts):
        raise BadRequest(f"{clause.name}: expected <code>, <system>|<code>, |<code> or <system>|")
    return exact_key(parts[0]), exact_key(parts[1]) or None


def _prefixed(text: str) -> tuple[str, str]:
    found = _PREFIX.fullmatch(text)
    if found and found["prefix"] in PREFIXES:
        return found["prefix"], found["rest"]
    return "eq", text


def _number_value(text: str, clause: Clause) -> tuple[str, Decimal]:
    prefix, rest = _prefixed(text)
    try:
        return prefix, parse_number(rest)
    except ValueError as error:
        raise BadRequest(f"{clause.name}: {error}; prefixes: {', '.join(PREFIXES)}") from None


def _decimal_interval(prefix: str, number: Decimal) -> tuple[Decimal, Decimal]:
    return approximate_interval(number) if prefix == "ap" else precision_interval(number)


def _interval(prefix: str, number: Decimal) -> tuple[float, float]:
    low, high = _decimal_interval(prefix, number)
    return float(low), float(high)
