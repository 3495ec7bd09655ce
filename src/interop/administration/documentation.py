"""The OpenAPI document of /api/v1, and a page that shows it without a script of anybody's."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from interop.access.routes import OPERATOR, ROUTES, Rule
from interop.administration.problems import MEDIA_TYPE, TITLES, Problem

REFUSALS = (400, 401, 403, 404, 429, 500, 503)
WITH_BODY = (413, 415)
WITH_VERSION = (412, 428)
WITH_CHANGE = (409,)
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1b1f24;background:#fff}h2{margin-top:2.5rem}code{font:13px ui-monospace,monospace}"
    "section{border-top:1px solid #d0d7de;padding:.5rem 0}b{display:inline-block;min-width:4.5rem}"
    "@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}}"
)
# CSP3 6.6.2.2: this style and nothing else.
STYLE_HASH = b64encode(sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)


def describe(api: FastAPI, prefix: str) -> None:
    """Have `api.openapi()` say what the routes do not: refusals, tokens, the base address."""

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _document(api, prefix)
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]


async def page(request: Request) -> Response:
    """GET /docs"""
    html = _page(request.app.state.administration.openapi())
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(html, headers=headers)


def _document(api: FastAPI, prefix: str) -> dict[str, Any]:
    found = get_openapi(
        title=api.title,
        version=api.version,
        description="Tenants, users, roles, clients, DICOM peers, keys, quotas and audit.",
        routes=api.routes,
        servers=[{"url": prefix}],
    )
    schemas = found["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs")
    schemas["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    found["security"] = [{"token": []}]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            _complete(operation, method, ROUTES[method.upper(), prefix + path])
    return found


def _complete(operation: dict[str, Any], method: str, rule: Rule) -> None:
    statuses = {*REFUSALS}
    if "requestBody" in operation:
        statuses |= {*WITH_BODY}
    if any(one["name"] == "If-Match" for one in operation.get("parameters", ())):
        statuses |= {*WITH_VERSION}
    if method != "get":
        statuses |= {*WITH_CHANGE}
    answers = operation["responses"]
    answers.pop("422", None)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in sorted(statuses):
        answers[str(status)] = {"description": TITLES[status], "content": content}
    whom = "the operator" if rule.permission == OPERATOR else f"users with {rule.permission}"
    operation["description"] = (
        f"{operation.get('description', '')}\n\nFor {whom}; a token of an app needs the scope "
        f"user/{rule.resource_type}.{rule.letter}."
    ).strip()


def _page(document: dict[str, Any]) -> str:
    base = document["servers"][0]["url"]
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(
                _operation(method, base + path, operation)
            )
    listed = "".join(f"<h2>{escape(tag)}</h2>{''.join(parts)}" for tag, parts in groups.items())
    title = escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style><h1>{title}</h1><p>{escape(document['info']['description'])} "
        f'The whole document: <a href="{base}/openapi.json">{base}/openapi.json</a>.</p>{listed}'
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    taken = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
    parameters = ", ".join(
        one["name"] for one in operation.get("parameters", ()) if one["in"] != "path"
    )
    more = "; ".join(part for part in (taken and f"body {taken}", parameters) if part)
    return (
        f"<section><b>{method.upper()}</b> <code>{escape(path)}</code>"
        f"<br>{escape(operation['description'])}<br><small>{escape(more)}</small></section>"
    )
