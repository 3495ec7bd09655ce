"""Words of a resource and searches for them: `_text` and `_content` (R4 search.html 3.1.1.4.9).

The folded text of a resource's narrative, and all its texts, stand in one row, with single spaces
between the words. A search looks through the rows of its resource type: PostgreSQL's own full text
search has no index under row-level security, since its operators are not leakproof, and a row for
each word would cost every write what few searches need (docs/decisions).

In a resource that is sealed a word that has a digit, or is part of a sensitive number, stands
there blindly, as numbers do in other search rows: it is found as a whole word only.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from interop.errors import BadRequest, TooCostly
from interop.fhir.lens import JsonObject
from interop.fhir.search.values import fold

FULL_TEXT = {"_text": "narrative", "_content": "content"}
# Of a resource: a longer text is found by its beginning.
MAX_CHARACTERS = 1_000_000
# Of a search.
MAX_SOUGHT = 32
MAX_NESTED = 16

# Between texts, so that no phrase reaches from one into the next.
_END = " \n "
_NOT_WORD = re.compile(r"[\W_]+")
_ASCII = {n: chr(n).lower() if chr(n).isalnum() else " " for n in range(128)}
_TAG = re.compile(r"<[^>]*>")
_DIGIT = re.compile(r"\d")
_TOKEN = re.compile(r'"(?P<phrase>[^"]*)"|(?P<sign>[()])|(?P<word>[^\s()"]+)')
# What no reader of a record reads: names of other things, and bytes.
_NOT_TEXT = frozenset(
    {"resourceType", "id", "reference", "system", "url", "data", "hash", "versionId", "lastUpdated",
     "contentType", "profile", "uri", "canonical", "valueUri", "valueUrl", "valueCanonical"}
)  # fmt: skip

Blind = Callable[[str], str]


def plain(text: str) -> str:
    """A text as it is compared: folded, letters and digits only, with single spaces."""
    if text.isascii():
        return " ".join(text.translate(_ASCII).split())
    return _NOT_WORD.sub(" ", fold(text)).strip()


def documents(
    resource: JsonObject, *, hidden: tuple[str, ...] | None = None, blind: Blind | None = None
) -> list[str]:
    """The text of the narrative and of everything, each as its row has it.

    `hidden` has the sensitive numbers of a resource that is sealed; without `blind` what may tell
    one is left out.
    """
    div = (resource.get("text") or {}).get("div")
    narrative = [_without_tags(div)] if isinstance(div, str) else []
    found = [_row(narrative), _row([*narrative, *dict.fromkeys(_texts(resource))])]
    return found if hidden is None else [_sealed(text, hidden, blind) for text in found]


def _row(texts: list[str]) -> str:
    # A break of lines is the one white space that `plain` would not leave.
    joined = _END.join(filter(None, map(plain, texts)))[:MAX_CHARACTERS]
    return f" {joined} " if joined else ""


def _without_tags(div: str) -> str:
    return html.unescape(_TAG.sub(" ", div))


def _texts(resource: JsonObject) -> Iterator[str]:
    """Every text but the narrative of the resource itself."""
    todo: list[Any] = [value for key, value in resource.items() if key not in ("text", *_NOT_TEXT)]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            for key, value in node.items():
                if isinstance(value, str):
                    if key == "div":
                        yield _without_tags(value)
                    elif key not in _NOT_TEXT:
                        yield value
                elif isinstance(value, (dict, list)) and key not in _NOT_TEXT:
                    todo.append(value)
        elif isinstance(node, list):
            todo += node
        elif isinstance(node, str):
            yield node


def has_digit(word: str) -> bool:
    """Whether a word may be, or be part of, a number."""
    return _DIGIT.search(word) is not None


def _sealed(text: str, hidden: tuple[str, ...], blind: Blind | None) -> str:
    numbers = [plain(number) for number in hidden]
    shown: dict[str, str] = {}
    for word in set(text.split()):
        if has_digit(word) or any(word in number for number in numbers):
            shown[word] = blind(word) if blind else ""
    return re.sub(r"\S+", lambda found: shown.get(found[0], found[0]), text) if shown else text


# -- searches -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Words:
    """Words that follow each other; with `is_prefix` the last may go on."""

    text: str
    is_prefix: bool


@dataclass(frozen=True, slots=True)
class Every:
    parts: tuple[Sought, ...]


@dataclass(frozen=True, slots=True)
class Either:
    parts: tuple[Sought, ...]


@dataclass(frozen=True, slots=True)
class Without:
    part: Sought


Sought = Words | Every | Either | Without


def sought(text: str, name: str) -> Sought:
    """Read what is looked for: words and "phrases", all required, AND, OR, NOT, (), word*.

    Raises BadRequest and TooCostly.
    """
    return _Reading(text, name).whole()


class _Reading:
    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._tokens = [(m.lastgroup or "", m[m.lastgroup or 0]) for m in _TOKEN.finditer(text)]
        self._at = 0
        self._words = 0
        self._depth = 0

    def whole(self) -> Sought:
        found = self._either()
        if self._at != len(self._tokens):
            raise self._refused()
        return found

    def _either(self) -> Sought:
        parts = [self._every()]
        while self._accept("word", "OR"):
            parts.append(self._every())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _every(self) -> Sought:
        parts = [self._one()]
        while self._at < len(self._tokens) and self._tokens[self._at] not in (
            ("word", "OR"),
            ("sign", ")"),
        ):
            self._accept("word", "AND")
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _one(self) -> Sought:
        if self._accept("word", "NOT"):
            return Without(self._nested(self._one))
        if self._accept("sign", "("):
            found = self._nested(self._either)
            if not self._accept("sign", ")"):
                raise self._refused()
            return found
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind not in ("word", "phrase") or (kind == "word" and text in ("AND", "OR")):
            raise self._refused()
        self._at += 1
        return self._of_text(text, is_prefix=kind == "word" and text.endswith("*"))

    def _nested(self, read: Callable[[], Sought]) -> Sought:
        self._depth += 1
        if self._depth > MAX_NESTED:
            raise TooCostly(f"{self._name} is nested more than {MAX_NESTED} deep")
        found = read()
        self._depth -= 1
        return found

    def _of_text(self, text: str, *, is_prefix: bool) -> Sought:
        found = plain(text)
        self._words += len(found.split())
        if not found:
            raise self._refused()
        if self._words > MAX_SOUGHT:
            raise TooCostly(f"{self._name} asks for more than {MAX_SOUGHT} words")
        return Words(found, is_prefix)

    def _accept(self, kind: str, text: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == (kind, text):
            self._at += 1
            return True
        return False

    def _refused(self) -> BadRequest:
        return BadRequest(
            f"{self._name}: expected words, with AND, OR, NOT, parentheses and word* as needed, "
            "such as (bone OR liver) AND metast*"
        )
