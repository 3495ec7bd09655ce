"""What searches must find: slow, obvious, and nothing of the server's own reading of resources.

Values come from fhirpathpy, run over the expressions of R4's SearchParameters; what matches is
written down from search.html, type by type, on those values alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import fhirpathpy
from fhirpathpy.models import models

from interop.fhir.definitions import SearchParameter, definitions

Json = dict[str, Any]
Interval = tuple[datetime, datetime]

CONTACTS = ("phone", "fax", "email", "pager", "url", "sms", "other")
FAR = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb")
_AS = re.compile(r"\(?([A-Za-z0-9.\[\]]+) as (\w+)\)?")
_RESOLVES = re.compile(r"\.where\(resolve\(\) is (\w+)\)")


@dataclass
class Asked:
    """Searches of one resource: what must find it, and what must not."""

    hits: list[tuple[str, str]] = field(default_factory=list)
    misses: list[tuple[str, str]] = field(default_factory=list)


# -- values ---------------------------------------------------------------------------------


@cache
def _compiled(expression: str) -> Any:
    return fhirpathpy.compile(expression, model=models["r4"])


def evaluate(expression: str, resource: Any, whole: Json | None = None) -> list[Any]:
    """An expression by fhirpathpy, which neither resolves references nor casts collections."""
    expression = _AS.sub(r"\1.ofType(\2)", expression)
    resolves = _RESOLVES.search(expression)
    found = list(_compiled(_RESOLVES.sub("", expression))(resource))
    if resolves:
        found = [one for one in found if _refers_to(one, resolves[1], whole or resource)]
    return found


def _refers_to(reference: Any, type_: str, whole: Json) -> bool:
    url = str(reference.get("reference", ""))
    if url.startswith("#"):
        contained = whole.get("contained", ())
        return any(c["id"] == url[1:] and c["resourceType"] == type_ for c in contained)
    return f"/{url}".rpartition("/")[0].endswith(f"/{type_}") or reference.get("type") == type_


def values_of(resource: Json, parameter: SearchParameter) -> list[Any]:
    """What a parameter finds in a resource."""
    type_ = resource["resourceType"]
    parts = [part.strip() for part in parameter.expression.split(" | ")]
    found: list[Any] = []
    for part in parts:
        # fhirpathpy knows no abstract types; some expressions begin without any.
        own = re.sub(r"^(\(?)(Resource|DomainResource)\b", rf"\1{type_}", part)
        if re.match(rf"\(?({type_}\b|[a-z])", own):
            found += evaluate(own, resource)
    return [one for one in found if one not in (None, {})]


def parameters_of(resource_type: str) -> Iterator[SearchParameter]:
    for code, parameter in definitions().search_parameters[resource_type].items():
        if parameter.expression and code not in ("_id", "_lastUpdated"):
            yield parameter


# -- searches -------------------------------------------------------------------------------


def asked_of(resource: Json) -> Asked:
    """For each parameter of the type: how the resource is found by it, and how it is not."""
    found = Asked()
    for parameter in parameters_of(resource["resourceType"]):
        values = values_of(resource, parameter)
        if parameter.type == "composite":
            _composite(found, parameter, resource, values)
        elif parameter.code == "phonetic":
            continue
        else:
            before = len(found.hits)
            _SEARCHES[parameter.type](found, parameter.code, values)
            if parameter.type == "reference":
                _ids(found, parameter, values)
            if len(found.hits) > before:
                found.misses.append((f"{parameter.code}:missing", "true"))
                found.hits.append((f"{parameter.code}:missing", "false"))
            elif not values:
                found.hits.append((f"{parameter.code}:missing", "true"))
                found.misses.append((f"{parameter.code}:missing", "false"))
    return found


def escaped(text: str) -> str:
    return re.sub(r"([\\,$|])", r"\\\1", text)


def codes_of(value: Any) -> list[tuple[str | None, str]]:
    """(system, code) of a token; the system None where a code's binding would say it."""
    if isinstance(value, bool):
        return [(None, str(value).lower())]
    if isinstance(value, str):
        return [(None, value)]
    if "coding" in value:
        return [pair for coding in value["coding"] for pair in codes_of(coding)]
    if value.get("system") in CONTACTS or ("use" in value and "system" not in value):
        return [(None, value["value"])] if "value" in value else []
    code = value.get("code", value.get("value"))
    return [(value.get("system", ""), code)] if isinstance(code, str) else []


def _tokens(found: Asked, name: str, values: list[Any]) -> None:
    pairs = [pair for value in values for pair in codes_of(value)]
    for system, code in pairs:
        found.hits.append((name, escaped(code)))
        found.misses.append((f"{name}:not", escaped(code)))
        if system:
            found.hits.append((name, f"{escaped(system)}|{escaped(code)}"))
            found.hits.append((name, f"{escaped(system)}|"))
        elif system == "":
            found.hits.append((name, f"|{escaped(code)}"))
        found.misses.append((name, f"urn:no-such-system|{escaped(code)}"))
    if pairs:
        absent = pairs[0][1] + "-no"
        found.misses.append((name, escaped(absent)))
        found.hits.append((f"{name}:not", escaped(absent)))
        found.hits.append((name, f"{escaped(absent)},{escaped(pairs[-1][1])}"))
    for text in texts_of(values):
        found.hits.append((f"{name}:text", escaped(text[:20].upper())))
        found.misses.append((f"{name}:text", escaped(text[:200] + " no such words")))


def texts_of(values: list[Any]) -> list[str]:
    """search.html 3.1.1.4.11: CodeableConcept.text, Coding.display, Identifier.type.text."""
    found: list[str] = []
    for value in values:
        if isinstance(value, dict):
            codings = value.get("coding", ())
            found += [value.get("text", ""), value.get("display", "")]
            found += [coding.get("display", "") for coding in codings]
            if isinstance(value.get("type"), dict):
                found.append(value["type"].get("text", ""))
    return [text for text in found if isinstance(text, str) and folded(text)]


def folded(text: str) -> str:
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return " ".join("".join(c for c in parts if not 0x300 <= ord(c) < 0x370).split())


def strings_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = ("text", "family", "given", "prefix", "suffix", "line", "city", "district", "state",
             "postalCode", "country")  # fmt: skip
    found = [value[part] for part in parts if part in value]
    return [text for one in found for text in (one if isinstance(one, list) else [one])]


def _strings(found: Asked, name: str, values: list[Any]) -> None:
    texts = [text for value in values for text in strings_of(value) if folded(text)]
    for text in texts[:2]:
        short = text[:40].strip()
        found.hits.append((name, escaped(short)))
        found.hits.append(
            (name, escaped(short.upper() if len(short.upper()) == len(short) else short))
        )
        found.hits.append((f"{name}:exact", escaped(text)))
        middle = folded(text)[1:12].strip()
        if middle:
            found.hits.append((f"{name}:contains", escaped(middle)))
        swapped = text.swapcase()
        if swapped not in texts:
            found.misses.append((f"{name}:exact", escaped(swapped)))
        found.misses.append((name, escaped(text[:100] + " no such")))
        found.misses.append((f"{name}:contains", escaped("no such " + text[:60])))


def _references(found: Asked, name: str, values: list[Any]) -> None:
    for value in values:
        url = value if isinstance(value, str) else value.get("reference", value.get("url", ""))
        if not url or url.startswith("#"):
            continue
        plain, _, version = url.partition("|")
        found.hits.append((name, escaped(plain) + (f"|{version}" if version else "")))
        if version:
            found.hits.append((name, escaped(plain)))
            found.misses.append((name, f"{escaped(plain)}|{version}9"))
        found.misses.append((name, escaped(plain) + "-no"))
    for value in values:
        identifier = value.get("identifier") if isinstance(value, dict) else None
        if isinstance(identifier, dict) and identifier.get("value"):
            pair = f"{escaped(identifier.get('system', ''))}|{escaped(identifier['value'])}"
            found.hits.append((f"{name}:identifier", pair))
            found.misses.append((f"{name}:identifier", pair + "-no"))


def _ids(found: Asked, parameter: SearchParameter, values: list[Any]) -> None:
    """An id by itself, of a type that the parameter refers to."""
    for value in values:
        url = value.get("reference", "") if isinstance(value, dict) else ""
        relative = re.fullmatch(r"([A-Z]\w+)/([A-Za-z0-9.-]+)", url)
        if relative and relative[1] in parameter.targets:
            found.hits.append((parameter.code, relative[2]))
            found.hits.append((f"{parameter.code}:{relative[1]}", relative[2]))
            found.misses.append((parameter.code, f"Basic/{relative[2]}"))


def interval(text: str) -> Interval:
    """[start, end) of a date of any precision, spelled out by length."""
    if len(text) == 4:
        high = datetime(int(text) + 1, 1, 1, tzinfo=UTC)
        return datetime(int(text), 1, 1, tzinfo=UTC), high
    if len(text) == 7:
        low = datetime(int(text[:4]), int(text[5:]), 1, tzinfo=UTC)
        return low, (low + timedelta(days=32)).replace(day=1)
    low = datetime.fromisoformat(text)
    if len(text) == 10:
        return low.replace(tzinfo=UTC), low.replace(tzinfo=UTC) + timedelta(days=1)
    fraction = re.search(r"\.(\d+)", text)
    step = timedelta(seconds=1)
    if fraction:
        step = timedelta(microseconds=10 ** (6 - min(len(fraction[1]), 6)))
    elif re.fullmatch(r"[^T]+T\d\d:\d\d(Z|[+-]\d\d:\d\d)?", text):
        step = timedelta(minutes=1)
    low = low.replace(tzinfo=UTC) if low.tzinfo is None else low.astimezone(UTC)
    return low, low + step


def span(value: Any) -> Interval | None:
    """What a date, a Period or a Timing covers."""
    if isinstance(value, str):
        # Some dates are of type string (Immunization.occurrence).
        return interval(value) if value[:4].isdigit() else None
    if "event" in value:
        events = [interval(event) for event in value["event"]]
        return min(low for low, _ in events), max(high for _, high in events)
    period = value if "repeat" not in value else value["repeat"].get("boundsPeriod", {})
    if not {"start", "end"} & set(period):
        return None
    low = interval(period["start"])[0] if "start" in period else FAR[0]
    return low, interval(period["end"])[1] if "end" in period else FAR[1]


def date_matches(prefix: str, value: Interval, target: Interval) -> bool:
    """search.html 3.1.1.4.3, word by word."""
    low, high = value
    contains = low <= target[0] and target[1] <= high
    above, below = target[1] > high, target[0] < low
    return {
        "eq": contains,
        "ne": not contains,
        "gt": above,
        "lt": below,
        "ge": above or contains,
        "le": below or contains,
        "sa": target[0] >= high,
        "eb": target[1] <= low,
    }[prefix]


def _dates(found: Asked, name: str, values: list[Any]) -> None:
    spans = [one for value in values if (one := span(value)) is not None]
    for low, high in spans[:2]:
        moments = [moment for moment in (low, high) if moment not in FAR]
        for moment in moments[:1]:
            for prefix in PREFIXES:
                # Each precision has its turn.
                shape = ("%Y-%m-%d", "%Y-%m", "%Y-%m-%dT%H:%M:%SZ")[len(found.hits) % 3]
                text = moment.strftime(shape)
                hit = any(date_matches(prefix, interval(text), one) for one in spans)
                (found.hits if hit else found.misses).append((name, prefix + text))


def number_matches(prefix: str, text: str, low: Decimal | None, high: Decimal | None) -> bool:
    """search.html 3.1.1.4.3 and 3.1.1.4.7: a value's own precision for eq and ne."""
    stated = Decimal(text)
    half = Decimal(5).scaleb(int(stated.as_tuple().exponent) - 1)
    least, most = low if low is not None else Decimal("-Infinity"), high
    most = most if most is not None else Decimal("Infinity")
    within = stated - half <= least and most < stated + half
    return {
        "eq": within,
        "ne": not within,
        "gt": most > stated,
        "lt": least < stated,
        "ge": most >= stated,
        "le": least <= stated,
        "sa": least > stated,
        "eb": most < stated,
    }[prefix]


def bounds(value: Any) -> tuple[Decimal | None, Decimal | None] | None:
    """The numbers that a number, a quantity, a range, money or samples cover."""
    if not isinstance(value, dict):
        return Decimal(str(value)), Decimal(str(value))
    if "low" in value or "high" in value:
        ends = [value.get(end, {}).get("value") for end in ("low", "high")]
    elif "lowerLimit" in value:
        ends = [value["lowerLimit"], value.get("upperLimit")]
    elif "value" in value:
        comparator = value.get("comparator", " ")[0]
        ends = [None if comparator == "<" else value["value"],
                None if comparator == ">" else value["value"]]  # fmt: skip
    else:
        return None
    low, high = (None if end is None else Decimal(str(end)) for end in ends)
    return low, high


def _numbers(found: Asked, name: str, values: list[Any], units: bool = False) -> None:
    ranges = [one for value in values if (one := bounds(value)) is not None]
    for low, high in ranges[:2]:
        stated = next(end for end in (low, high) if end is not None)
        for text in (f"{stated:f}", f"{stated + 1:f}"):
            for prefix in PREFIXES:
                hit = any(number_matches(prefix, text, *one) for one in ranges)
                (found.hits if hit else found.misses).append((name, prefix + text))
    for value in values if units else ():
        if isinstance(value, dict) and "value" in value and "code" in value:
            system, code, amount = value.get("system", ""), value["code"], value["value"]
            text = f"le{Decimal(str(amount)):f}"
            if "comparator" not in value:
                found.hits.append((name, f"{text}|{escaped(system)}|{escaped(code)}"))
                found.hits.append((name, f"{text}||{escaped(code)}"))
            found.misses.append((name, f"{text}|urn:no|{escaped(code)}"))
            if code == "mg" and system.endswith("unitsofmeasure.org"):
                found.hits.append((name, f"le{Decimal(str(amount)) / 1000:f}|{system}|g"))


def _quantities(found: Asked, name: str, values: list[Any]) -> None:
    _numbers(found, name, values, units=True)


def _uris(found: Asked, name: str, values: list[Any]) -> None:
    for value in values:
        found.hits.append((name, escaped(value)))
        found.misses.append((name, escaped(value) + "-no"))
        found.misses.append((name, escaped(value.swapcase())))
        host = re.match(r"https?://[^/]+", value)
        if host and len(host[0]) < 60:
            found.hits.append((f"{name}:below", escaped(host[0])))
            found.misses.append((f"{name}:below", escaped(host[0][:-1])))
            found.hits.append((f"{name}:above", escaped(value.partition("|")[0]) + "/beyond"))


def _special(found: Asked, name: str, values: list[Any]) -> None:
    for value in values:
        if "latitude" in value:
            found.hits.append((name, f"{value['latitude']}|{value['longitude']}|1|km"))
            found.misses.append((name, f"{-value['latitude'] - 1}|{value['longitude']}|1|km"))


def _composite(found: Asked, parameter: SearchParameter, resource: Json, items: list[Any]) -> None:
    """The parts of one element go together; of two elements they do not."""
    said: list[list[str]] = []
    for item in items:
        parts = [
            _first(type_, evaluate(f"{expression}", item, resource))
            for _, type_, expression in parameter.components
        ]
        if all(parts):
            said.append([part for part in parts if part])
    for parts in said[:3]:
        found.hits.append((parameter.code, "$".join(parts)))
        wrong = [*parts[:-1], "urn:no-such|none" if "|" in parts[-1] else "no-such-1"]
        if parameter.components[-1][1] in ("token", "reference", "string", "uri"):
            found.misses.append((parameter.code, "$".join(wrong)))
    if said:
        found.misses.append((f"{parameter.code}:missing", "true"))


def _first(type_: str, values: list[Any]) -> str | None:
    asked = Asked()
    if values:
        _SEARCHES[type_](asked, "x", values)
    wanted = [value for name, value in asked.hits if name == "x" and "," not in value]
    return wanted[0] if wanted else None


_SEARCHES = {
    "token": _tokens,
    "string": _strings,
    "reference": _references,
    "date": _dates,
    "number": _numbers,
    "quantity": _quantities,
    "uri": _uris,
    "special": _special,
}
