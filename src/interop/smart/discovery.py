"""What the authorization server of a tenant can do, and its public keys (SMART App Launch 2.2
"Conformance", OpenID Connect Discovery, RFC 7517).

The documents are the same for every tenant, and so for names that are none.
"""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interop.access.scopes import CONTEXT_SCOPES
from interop.errors import NotFound
from interop.smart.client_keys import ALGORITHMS
from interop.smart.clients import GRANT_TYPES
from interop.smart.errors import translated
from interop.smart.keys import ID_TOKEN_ALGORITHM
from storage.tenancy import SLUG

IMAGING = "http://fhir.org/argonaut/smart-imaging/capabilities"
# SMART App Launch 2.2 "Capabilities", and those of SMART Imaging Access. A test walks them all.
CAPABILITIES = (
    "launch-ehr",
    "launch-standalone",
    "authorize-post",
    "client-public",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-banner",
    "context-ehr-patient",
    "context-ehr-encounter",
    "context-standalone-patient",
    "permission-offline",
    "permission-online",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
    "smart-imaging-access",
    f"{IMAGING}/app-launch",
    f"{IMAGING}/backend-services",
)
SCOPES = (
    *CONTEXT_SCOPES,
    *(
        f"{level}/*.{letters}"
        for level in ("patient", "user", "system")
        for letters in ("rs", "cruds")
    ),
    "patient/ImagingStudy.rs",
    "user/ImagingStudy.rs",
    "system/ImagingStudy.rs",
)
CLIENT_AUTHENTICATION = ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]
# Public documents; an app in a browser reads them from its own origin.
PUBLIC = {"Cache-Control": "public, max-age=300", "Access-Control-Allow-Origin": "*"}


def smart_configuration(base: str) -> dict[str, Any]:
    """The SMART configuration of the tenant at `base` (.../t/{tenant})."""
    return {
        **_server(base),
        "capabilities": list(CAPABILITIES),
        "management_endpoint": f"{base}/oauth2/apps",
    }


def openid_configuration(base: str) -> dict[str, Any]:
    """OpenID Connect Discovery 3."""
    return {
        **_server(base),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ID_TOKEN_ALGORITHM],
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "name", "fhirUser",
        ],
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }  # fmt: skip


def _server(base: str) -> dict[str, Any]:
    oauth2 = f"{base}/oauth2"
    return {
        "issuer": base,
        "jwks_uri": f"{oauth2}/jwks",
        "authorization_endpoint": f"{oauth2}/authorize",
        "token_endpoint": f"{oauth2}/token",
        "introspection_endpoint": f"{oauth2}/introspect",
        "revocation_endpoint": f"{oauth2}/revoke",
        "registration_endpoint": f"{oauth2}/register",
        "grant_types_supported": list(GRANT_TYPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "scopes_supported": list(SCOPES),
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": CLIENT_AUTHENTICATION,
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "authorization_response_iss_parameter_supported": True,
    }


def _base(request: Request) -> str:
    """Raises NotFound for what cannot be the name of a tenant."""
    slug = request.path_params["tenant"]
    if not SLUG.fullmatch(slug):
        raise NotFound
    return f"{request.app.state.services.settings.effective_public_url}/t/{slug}"


@translated
async def smart(request: Request) -> Response:
    """GET /t/{tenant}/fhir/R4/.well-known/smart-configuration"""
    return JSONResponse(smart_configuration(_base(request)), headers=PUBLIC)


@translated
async def openid(request: Request) -> Response:
    """GET /t/{tenant}/.well-known/openid-configuration"""
    return JSONResponse(openid_configuration(_base(request)), headers=PUBLIC)


@translated
async def jwks(request: Request) -> Response:
    """GET /t/{tenant}/oauth2/jwks: keys that sign, and those that signed what still holds."""
    _base(request)
    keys = await to_thread.run_sync(request.app.state.services.tokens.keys.public)
    return JSONResponse(keys, headers=PUBLIC, media_type="application/jwk-set+json")


def fhir_routes() -> list[Route]:
    """What lies under the FHIR base, and so must be asked before FHIR is."""
    return [Route("/t/{tenant}/fhir/R4/.well-known/smart-configuration", smart)]


def routes() -> list[Route]:
    return [
        Route("/t/{tenant}/.well-known/openid-configuration", openid),
        Route("/t/{tenant}/oauth2/jwks", jwks),
    ]
