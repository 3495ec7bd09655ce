"""The HTML of the sign-in pages: forms with labels, no script, nothing from elsewhere.

Every value is escaped where it enters (`_e`); the Content-Security-Policy would not run a script
that slipped in. The pages work without colours, with a keyboard and with a screen reader.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from starlette.responses import HTMLResponse, Response

from interop.identity.forms import FIELD
from interop.identity.sessions import ListedSession

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: a browser then sends `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 26rem; margin: 10vh auto; padding: 0 1rem; }
main.wide { max-width: none; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
label { display: block; margin-top: 1rem; }
input { width: 100%; box-sizing: border-box; padding: .6rem; font: inherit; }
button, a.button { display: block; width: 100%; box-sizing: border-box; margin-top: 1rem;
  padding: .6rem; font: inherit; text-align: center; border: 1px solid; border-radius: .3rem;
  background: none; color: inherit; text-decoration: none; cursor: pointer; }
button.main { background: #0b5cad; border-color: #0b5cad; color: #fff; }
:focus-visible { outline: 3px solid #c47f00; outline-offset: 2px; }
[role=alert] { border-left: .3rem solid #b3261e; padding: .5rem .8rem; }
.hint { font-size: .9rem; } code { overflow-wrap: anywhere; }
li { margin: .8rem 0; } li form button { width: auto; margin-top: .3rem; padding: .2rem .8rem; }
"""


@dataclass(frozen=True, slots=True)
class Field:
    """One labelled input."""

    name: str
    label: str
    type: str = "text"
    autocomplete: str = "off"
    value: str = ""
    hint: str = ""
    minlength: int | None = None
    is_first: bool = False


def document(title: str, body: str, status: int = 200, head: str = "") -> Response:
    """A whole page with its policy: styles by nonce, forms to this server, no frame, no script."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'self' 'nonce-{nonce}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_e(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{head}<style nonce="{nonce}">{_STYLE}</style></head>\n'
        f"<body><main><h1>{_e(title)}</h1>{body}</main></body></html>\n"
    )
    return HTMLResponse(page, status, {**HEADERS, "Content-Security-Policy": policy})


def form(
    action: str,
    token: str,
    fields: Iterable[Field],
    button: str,
    *,
    hidden: Mapping[str, str] | None = None,
    is_main: bool = True,
) -> str:
    """A form with labelled fields and its token."""
    kept = {FIELD: token, **(hidden or {})}
    inputs = "".join(
        f'<input type="hidden" name="{_e(name)}" value="{_e(value)}">'
        for name, value in kept.items()
    )
    inputs += "".join(map(_input, fields))
    style = ' class="main"' if is_main else ""
    return (
        f'<form method="post" action="{_e(action)}">{inputs}'
        f'<button type="submit"{style}>{_e(button)}</button></form>'
    )


def alert(message: str | None) -> str:
    """Words that a screen reader says at once."""
    return f'<p role="alert">{_e(message)}</p>' if message else ""


def paragraph(text: str) -> str:
    return f"<p>{_e(text)}</p>"


def heading(text: str) -> str:
    return f"<h2>{_e(text)}</h2>"


def link(href: str, text: str) -> str:
    """A link that looks like a button."""
    return f'<a class="button" href="{_e(href)}">{_e(text)}</a>'


def onward(path: str) -> Response:
    """A page that goes on by itself: unlike a redirect, it is no longer part of the form.

    A browser that applies `form-action` to redirects would stop the way back to an app that
    asked for the sign-in.
    """
    refresh = f'<meta http-equiv="refresh" content="0; url={_e(path)}">'
    return document("Signed in", link(path, "Continue"), head=refresh)


def secret_lines(secret: str, uri: str) -> str:
    """What an authenticator app needs, to be typed or opened."""
    grouped = " ".join(secret[i : i + 4] for i in range(0, len(secret), 4))
    return (
        "<p>Enter this key in your authenticator app (time-based), or open it there:</p>"
        f'<p><code>{_e(grouped)}</code></p><p><a href="{_e(uri)}">Open in an app</a></p>'
    )


def code_list(codes: Iterable[str]) -> str:
    items = "".join(f"<li><code>{_e(code)}</code></li>" for code in codes)
    return (
        "<p>Keep these recovery codes in a safe place. Each signs you in once when you do not "
        f"have your app. They are not shown again.</p><ol>{items}</ol>"
    )


def session_list(entries: Iterable[tuple[ListedSession, bool, str]]) -> str:
    """Sessions, whether each is this browser's, and the form that ends it."""
    items = []
    for entry, is_current, ending in entries:
        device = entry.device_name or entry.user_agent or "Unknown device"
        here = " (this browser)" if is_current else ""
        items.append(
            f"<li>{_e(device)}{here}<br>{_e(entry.ip_address or 'unknown address')}, last active "
            f'<time datetime="{entry.last_activity_at.isoformat()}">'
            f"{entry.last_activity_at:%Y-%m-%d %H:%M} UTC</time>{ending}</li>"
        )
    return f"<ul>{''.join(items)}</ul>"


def _input(field: Field) -> str:
    identifier = _e(field.name)
    described = f' aria-describedby="{identifier}-hint"' if field.hint else ""
    hint = f'<span class="hint" id="{identifier}-hint">{_e(field.hint)}</span>'
    limits = f' minlength="{field.minlength}"' if field.minlength else ""
    numeric = ' inputmode="numeric"' if field.autocomplete == "one-time-code" else ""
    first = " autofocus" if field.is_first else ""
    return (
        f'<label for="{identifier}">{_e(field.label)}</label>'
        f'<input id="{identifier}" name="{identifier}" type="{_e(field.type)}"'
        f' autocomplete="{_e(field.autocomplete)}" value="{_e(field.value)}" required'
        f"{described}{limits}{numeric}{first}>{hint if field.hint else ''}"
    )


def _e(text: str) -> str:
    return escape(text, quote=True)
