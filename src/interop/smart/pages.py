"""The pages that a person sees while an app is launched: plain HTML, no script, nothing foreign.

Every value is escaped where it is written. The policy of each page allows a form to end at the
app's redirect URI, because browsers apply form-action to where a form's answer redirects.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from html import escape
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f3f5f7;color:#1b2733}
main{max-width:34rem;margin:3rem auto;padding:1.5rem 2rem;background:#fff;border-radius:.5rem;
box-shadow:0 1px 4px rgba(0,0,0,.15)}
h1{font-size:1.3rem;margin-top:0}ul{padding-left:1.2rem}li{margin:.25rem 0}
button{font:inherit;padding:.45rem 1rem;border:1px solid #9aa7b3;border-radius:.3rem;
background:#fff;cursor:pointer}
button.primary{background:#0b5cad;border-color:#0b5cad;color:#fff}
button.row{display:block;width:100%;text-align:left;margin:.3rem 0}
button:focus-visible,input:focus-visible{outline:3px solid #f2a900;outline-offset:1px}
input[type=search]{font:inherit;padding:.4rem;width:60%}
.quiet{color:#51606e;font-size:.9rem}dt{font-weight:600}dd{margin:0 0 .6rem}
"""


def page(
    title: str, body: str, *, status: int = 200, form_targets: Iterable[str] = ()
) -> HTMLResponse:
    """A page around `body`, which is HTML already."""
    nonce = secrets.token_urlsafe(12)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src 'nonce-{nonce}'",
            " ".join(("form-action 'self'", *form_targets)),
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style nonce="{nonce}">{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>"
    )
    return HTMLResponse(
        text,
        status,
        {
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        },
    )


def problem(title: str, text: str, status: int = 400) -> HTMLResponse:
    """A page that says what is wrong, for what must not go back to an app."""
    return page(title, f"<p>{escape(text)}</p>", status=status)


def form_target(redirect_uri: str) -> str:
    """A redirect URI as a source of a content security policy: its origin, or its scheme."""
    parts = urlsplit(redirect_uri)
    if parts.scheme in ("http", "https"):
        return f"{parts.scheme}://{parts.netloc}"
    return f"{parts.scheme}:"


def hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'


def csrf_token(session_cookie: str, purpose: str) -> str:
    """What proves that a form came from a page of this session, for one purpose only.

    The key is the cookie itself: who can't read it can't make the token.
    """
    return hmac.new(session_cookie.encode(), purpose.encode(), hashlib.sha256).hexdigest()


def is_csrf_token(given: str, session_cookie: str, purpose: str) -> bool:
    return hmac.compare_digest(given.encode(), csrf_token(session_cookie, purpose).encode())
