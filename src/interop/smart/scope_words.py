"""Scopes in words, for the person who is asked to agree."""

from __future__ import annotations

import re

from interop.access.scopes import ANY_TYPE, Scope, Scopes

_CONTEXT = {
    "openid": "Know who you are",
    "fhirUser": "Know your own record as a user of this organization",
    "profile": "Know your name",
    "launch": "Know which patient you have open",
    "launch/patient": "Know which patient you choose",
    "online_access": "Stay connected until you sign out",
    "offline_access": "Stay connected when you are not here, until you take it back",
}
_LETTERS = (("rs", "read"), ("c", "add"), ("u", "change"), ("d", "delete"))
_OF = {
    "patient": "of this one patient",
    "user": "of every patient that you may see",
    "system": "of the whole organization",
}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def in_words(scopes: Scopes) -> list[str]:
    """One sentence for each scope."""
    said = [_CONTEXT[name] for name in scopes.context if name in _CONTEXT]
    return [*said, *map(_sentence, scopes.granted)]


def _sentence(scope: Scope) -> str:
    verbs = [word for letters, word in _LETTERS if set(letters) & set(scope.letters)]
    listed = " and ".join([", ".join(verbs[:-1]), verbs[-1]]) if verbs[1:] else verbs[0]
    kind = _CAMEL.sub(" ", scope.resource_type).lower()
    things = "all records" if scope.resource_type == ANY_TYPE else f"{kind} records"
    text = f"{listed.capitalize()} {things} {_OF[scope.level]}"
    if scope.constraints:
        text += ", only where " + " and ".join(f"{n} is {v}" for n, v in scope.constraints)
    return text
