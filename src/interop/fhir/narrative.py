"""The XHTML of narratives: the subset that R4 allows (txt-1), nothing that runs or calls.

An empty div (txt-2) is let pass, as two official examples have one. Beyond txt-1, nothing may
be loaded from elsewhere: a picture would tell its host who reads which record (security.md C7).
"""

from __future__ import annotations

import re
from xml.parsers import expat

XHTML = "http://www.w3.org/1999/xhtml"

_ELEMENTS = frozenset(
    "a abbr acronym b big blockquote br caption cite code col colgroup dd dfn div dl dt em h1 h2 h3"
    " h4 h5 h6 hr i img li ol p pre q samp small span strong sub sup table tbody td tfoot th thead"
    " tr tt ul var".split()
)
_ATTRIBUTES = frozenset(
    "abbr accesskey align alt axis bgcolor border cellhalign cellpadding cellspacing cellvalign"
    " char charoff charset cite class colspan compact coords dir frame headers height href hreflang"
    " hspace id lang longdesc name nowrap rel rev rowspan rules scope shape span src start style"
    " summary tabindex title type valign value vspace width".split()
)
_LINK = re.compile(r"(?:https?://|mailto:|tel:|#|(?![A-Za-z][A-Za-z0-9+.-]*:)(?!//))", re.ASCII)
_PICTURE = re.compile(r"(?:#|data:image/(?:png|jpeg|gif|bmp);base64,|(?![A-Za-z+.-]+:)(?!//))")
# Browsers read "java&#10;script:" as a scheme.
_IGNORED_IN_URLS = re.compile(r"[\x00-\x20]")
# Backgrounds that the publisher of the guides writes: a file beside the page, or a picture inside.
_HARMLESS_URL = re.compile(
    r"url\((?:[A-Za-z0-9_-][A-Za-z0-9_./-]*|data:image/(?:png|jpeg|gif|bmp);base64,[A-Za-z0-9+/=]*)\)",
    re.ASCII,
)
_LOADING_STYLE = re.compile(r"url\s*\(|expression\s*\(|@import|behavior\s*:|\\", re.IGNORECASE)


class NarrativeError(ValueError):
    """The div is not of the XHTML that FHIR allows."""


def check_narrative(div: str) -> None:
    """Raise NarrativeError, saying which rule the div breaks."""
    checker = _Checker()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = checker.start
    parser.EndElementHandler = checker.end
    parser.StartDoctypeDeclHandler = checker.doctype
    parser.ProcessingInstructionHandler = checker.instruction
    try:
        parser.Parse(div, True)
    except expat.ExpatError as error:
        raise NarrativeError(
            f"not well-formed XHTML: {expat.errors.messages[error.code]} "
            f"(line {error.lineno}); entities such as &nbsp; are written as characters"
        ) from None


class _Checker:
    def __init__(self) -> None:
        self._depth = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if namespace != XHTML:
            raise NarrativeError(f"<{local[:32]}> is not in the namespace {XHTML}")
        if self._depth == 0 and local != "div":
            raise NarrativeError(f"it starts with <{local[:32]}>; expected <div>")
        if local not in _ELEMENTS:
            raise NarrativeError(f"<{local[:32]}> is not allowed (txt-1)")
        self._depth += 1
        for attribute, value in attributes.items():
            self._attribute(local, attribute, value)

    def _attribute(self, element: str, name: str, value: str) -> None:
        namespace, _, local = name.rpartition(" ")
        if namespace == "http://www.w3.org/XML/1998/namespace" and local in ("lang", "space", "id"):
            return
        if namespace or local not in _ATTRIBUTES:
            raise NarrativeError(f"<{element} {local[:32]}> is not allowed (txt-1)")
        place = _IGNORED_IN_URLS.sub("", value)
        if local == "src" and not _PICTURE.match(place):
            raise NarrativeError(
                f"<{element} src> may name a part of this resource (#id), a data:image or a "
                "relative URL, not another host"
            )
        if local in ("href", "cite", "longdesc") and not _LINK.match(place):
            raise NarrativeError(f"<{element} {local}>: http, https, mailto, tel or #id expected")
        if local == "style" and _LOADING_STYLE.search(_HARMLESS_URL.sub("", value)):
            raise NarrativeError(f"<{element} style> may not load or run anything")

    def end(self, _name: str) -> None:
        self._depth -= 1

    def doctype(self, *_arguments: object) -> None:
        raise NarrativeError("a document type declaration is not allowed")

    def instruction(self, *_arguments: object) -> None:
        raise NarrativeError("a processing instruction is not allowed")
