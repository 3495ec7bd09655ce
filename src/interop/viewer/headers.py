"""What browsers are told about the viewer: what its page may load and run, and who may read it.

OHIF needs more than our own pages. Each exception says what asks for it; everything else, and
whatever is not of this origin, the browser refuses.
"""

from __future__ import annotations

# COOP and COEP keep the page in a process of its own, out of reach of other sites' pages. OHIF's
# volumes do not need the shared memory that this allows (measured with 3.13.2).
ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
IMMUTABLE = "public, max-age=31536000, immutable"
NO_STORE = "no-store"


def page_policy(inline_scripts: tuple[str, ...]) -> str:
    """The Content-Security-Policy of the page."""
    own = " ".join(f"'{digest}'" for digest in inline_scripts)
    return _policy(
        {
            "default-src": "'none'",
            # The two lines in the page by their digests; decoders are WebAssembly.
            "script-src": f"'self' {own} 'wasm-unsafe-eval'",
            # The libraries of its controls set styles as they go.
            "style-src": "'self' 'unsafe-inline'",
            # Icons inside style sheets; thumbnails that were fetched with the token.
            "img-src": "'self' data: blob:",
            "font-src": "'self' data:",
            # Pictures that were fetched are read again to be drawn.
            "connect-src": "'self' blob: data:",
            "worker-src": "'self' blob:",
            # Videos and PDFs of a study, fetched with the token.
            "media-src": "'self' blob:",
            "object-src": "'self' blob:",
            "frame-src": "blob:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
    )


# A worker keeps to the policy of its own script (CSP3 4.2.1). The decoders there write their glue
# code as they start (Emscripten's embind), which the page itself is not allowed.
WORKER_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-eval' 'wasm-unsafe-eval'",
        "connect-src 'self'",
    )
)


def _policy(directives: dict[str, str]) -> str:
    return "; ".join(f"{name} {sources}" for name, sources in directives.items())
