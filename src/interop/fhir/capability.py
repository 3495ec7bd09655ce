"""The CapabilityStatement: what is served, from the tables that serve it (R4 http.html).

Nothing in it is written by hand that the engine decides elsewhere: resource types and search
parameters are those of the definitions, interactions those of the router.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson

from interop.access.routes import FHIR, ROUTES
from interop.fhir import audit_log, published
from interop.fhir.definitions import FHIR_VERSION, SearchParameter, definitions
from interop.fhir.negotiation import MEDIA_TYPE, XML_MEDIA_TYPE

SOFTWARE = "dental-interop"
# When this statement last changed in kind; it is not the date of an installation.
RELEASED = "2026-11-22"
INTERACTIONS = (
    "read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create",
    "search-type",
)  # fmt: skip
SYSTEM_INTERACTIONS = ("transaction", "batch", "history-system", "search-system")
COMMON_PARAMETERS = (
    "_content", "_id", "_lastUpdated", "_profile", "_security", "_source", "_tag", "_text",
)  # fmt: skip
OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
# Extension of the statement -> path below /oauth2/ (SMART App Launch, oauth-uris).
OAUTH2_PATHS = {
    "authorize": "authorize",
    "token": "token",
    "register": "register",
    "manage": "apps",
    "introspect": "introspect",
    "revoke": "revoke",
}
COMPARTMENTS = "http://hl7.org/fhir/CompartmentDefinition"
COMPARTMENT_OWNERS = ("device", "encounter", "patient", "practitioner", "relatedPerson")
FHIR_PATH = "/fhir/R4"
# Stands for the address of a tenant until it is known, and for nothing else.
ANY_ROOT = "https://any-root.invalid/t/any"
# Guides whose profiles are validated (profiles/), beside our own.
GUIDES = (
    "http://hl7.org/fhir/us/core/ImplementationGuide/hl7.fhir.us.core|6.1.0",
    "http://hl7.org/fhir/us/dental-data-exchange/ImplementationGuide/hl7.fhir.us.dental-data-exchange",
)
OPERATION_DEFINITIONS = "http://hl7.org/fhir/OperationDefinition"
ANY_TYPE = "{resource_type}"
RESTFUL_SECURITY = "http://terminology.hl7.org/CodeSystem/restful-security-service"


def capability_statement(own_base: str | None = None) -> dict[str, Any]:
    """The statement; of an instance where `own_base` says where it is, else of the software."""
    statement: dict[str, Any] = {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": RELEASED,
        "publisher": SOFTWARE,
        "kind": "instance" if own_base else "capability",
        "software": {"name": SOFTWARE, "version": _software_version()},
    }
    if own_base:
        statement["implementation"] = {"description": "Dental records", "url": own_base}
    return {
        **statement,
        "fhirVersion": FHIR_VERSION,
        "implementationGuide": [published.GUIDE_URL, *GUIDES],
        "format": [MEDIA_TYPE, "json", XML_MEDIA_TYPE, "xml"],
        "rest": [
            {
                "mode": "server",
                "security": _security(own_base),
                "resource": [_resource(type_) for type_ in sorted(definitions().resource_types)],
                "interaction": [{"code": code} for code in SYSTEM_INTERACTIONS],
                "searchParam": [
                    _parameter(code, definitions().search_parameters["Basic"][code])
                    for code in COMMON_PARAMETERS
                ],
                "compartment": [f"{COMPARTMENTS}/{owner}" for owner in COMPARTMENT_OWNERS],
            }
        ],
    }


@dataclass(frozen=True, slots=True)
class InstanceStatement:
    """The statement of an instance as it is sent: built once, for any address.

    Who asks needs no token, so what they write into the URL must cost no memory that stays.
    """

    parts: tuple[bytes, ...]
    digest: bytes

    def etag(self, own_base: str) -> str:
        """The entity tag of the statement at an address."""
        return f'W/"{hashlib.sha256(self.digest + own_base.encode()).hexdigest()[:16]}"'

    def body(self, own_base: str) -> bytes:
        """The bytes of the statement at an address."""
        root = own_base.removesuffix(FHIR_PATH)
        return orjson.dumps(root)[1:-1].join(self.parts)


@cache
def instance_statement() -> InstanceStatement:
    """The statement of an instance, in the parts between which its address stands."""
    body = orjson.dumps(capability_statement(ANY_ROOT + FHIR_PATH))
    return InstanceStatement(tuple(body.split(ANY_ROOT.encode())), hashlib.sha256(body).digest())


def _software_version() -> str:
    try:
        return version(SOFTWARE)
    except PackageNotFoundError:
        return "0"


def _security(own_base: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cors": True,
        "service": [{"coding": [{"system": RESTFUL_SECURITY, "code": "SMART-on-FHIR"}]}],
        "description": "SMART App Launch 2.2; see .well-known/smart-configuration",
    }
    if own_base:
        oauth2 = own_base.removesuffix(FHIR_PATH) + "/oauth2/"
        uris = [{"url": name, "valueUri": oauth2 + path} for name, path in OAUTH2_PATHS.items()]
        found["extension"] = [{"url": OAUTH_URIS, "extension": uris}]
    return found


def _resource(type_: str) -> dict[str, Any]:
    parameters = definitions().search_parameters[type_]
    if type_ == audit_log.RESOURCE_TYPE:
        return _audit_event(parameters)
    found: dict[str, Any] = {
        "type": type_,
        "supportedProfile": list(published.profiles_by_type().get(type_, ())),
        "interaction": [{"code": code} for code in INTERACTIONS],
        "versioning": "versioned-update",
        "readHistory": True,
        "updateCreate": True,
        "conditionalCreate": True,
        "conditionalRead": "full-support",
        "conditionalUpdate": True,
        "conditionalDelete": "multiple",
        "referencePolicy": ["literal", "logical", "local"],
        "operation": _operations(type_),
        "searchInclude": [
            f"{type_}:{code}"
            for code, parameter in parameters.items()
            if parameter.type == "reference"
        ],
        "searchRevInclude": list(_referring(type_)),
        "searchParam": [
            _parameter(code, parameter)
            for code, parameter in parameters.items()
            if parameter.has_index() and code not in COMMON_PARAMETERS
        ],
    }
    # json.html: an array is never empty.
    return {key: value for key, value in found.items() if value != []}


def _audit_event(parameters: Mapping[str, SearchParameter]) -> dict[str, Any]:
    """What is read from the log and never written (docs/audit.md)."""
    codes = [code for code in audit_log.PARAMETERS if code not in COMMON_PARAMETERS]
    return {
        "type": audit_log.RESOURCE_TYPE,
        "interaction": [{"code": code} for code in audit_log.INTERACTIONS],
        "versioning": "no-version",
        "readHistory": False,
        "updateCreate": False,
        "searchParam": [_parameter(code, parameters[code]) for code in codes],
    }


def _operations(type_: str) -> list[dict[str, str]]:
    """The operations that the routes have on a type, or on every type."""
    found: set[tuple[str, str]] = set()
    for _, route in ROUTES:
        owner, _, rest = route.removeprefix(f"{FHIR}/").partition("/")
        name = rest.rpartition("/")[2]
        if route.startswith(f"{FHIR}/") and name.startswith("$") and owner in (type_, ANY_TYPE):
            found.add((name[1:], "Resource" if owner == ANY_TYPE else owner))
    return [
        {"name": name, "definition": f"{OPERATION_DEFINITIONS}/{owner}-{name}"}
        for name, owner in sorted(found)
    ]


@cache
def _references() -> dict[str, tuple[str, ...]]:
    """Target type -> the `Type:parameter` that may refer to it by name."""
    found: dict[str, list[str]] = {}
    for type_, parameters in definitions().search_parameters.items():
        for code, parameter in parameters.items():
            if parameter.type == "reference":
                for target in parameter.targets:
                    found.setdefault(target, []).append(f"{type_}:{code}")
    return {target: tuple(sorted(names)) for target, names in found.items()}


def _referring(type_: str) -> tuple[str, ...]:
    return _references().get(type_, ())


def _parameter(code: str, parameter: SearchParameter) -> dict[str, str]:
    return {"name": code, "definition": parameter.url, "type": parameter.type}
