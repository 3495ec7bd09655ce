"""PlanDefinition over workflows: the states of a process and the ways between them.

Each state is an action; a transition makes it come before the state that it leads to. How states
and transitions are written in the columns is the workflow engine's: a state is a word, or an object
with `code` or `name`; a transition has `from` and `to`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from interop.fhir.lens import Connection, JsonObject
from interop.fhir.mappings.concepts import Coding
from interop.fhir.mappings.converters import Codes, Text
from interop.fhir.mappings.lens import Entry, ResourceMapping, Rows, constant
from interop.fhir.mappings.statements import query
from interop.fhir.mappings.systems import OWN
from interop.fhir.mappings.views import Shown, ViewLens

CODE: Final = f"{OWN}:workflow"
WORKFLOW: Final = Coding(
    "http://terminology.hl7.org/CodeSystem/plan-definition-type",
    "workflow-definition",
    "Workflow Definition",
)

MAPPING: Final = ResourceMapping(
    "PlanDefinition",
    "workflows",
    [
        Entry("url", "url", Text()),
        Entry("code", f"identifier[system={CODE}].value", Text()),
        Entry("version", "version", Text()),
        Entry("name", "title", Text()),
        Entry("status", "status", Codes({"active": "ACTIVE", "retired": "RETIRED"})),
        Entry("description", "description", Text()),
        Entry("actions", "action", Shown("each state, the initial one first, and what follows it")),
    ],
    template=constant({"type": WORKFLOW.concept()}),
)


def _load(connection: Connection, tenant_id: UUID, row_id: UUID) -> Rows | None:
    found = query(
        connection,
        "SELECT code, name, description, version, initial_state, states, transitions, is_active"
        " FROM workflows WHERE tenant_id = %s AND id = %s",
        tenant_id,
        row_id,
    )
    if not found:
        return None
    flow = found[0]
    actions = _actions(flow["initial_state"], flow["states"], flow["transitions"])
    return Rows(
        {
            "url": f"urn:uuid:{row_id}",
            "code": flow["code"],
            "version": str(flow["version"]),
            "name": flow["name"],
            "status": "ACTIVE" if flow["is_active"] else "RETIRED",
            "description": flow["description"],
            "actions": actions,
        }
    )


def _actions(initial: str, states: Any, transitions: Any) -> list[JsonObject]:
    ways = [way for way in _items(transitions) if isinstance(way, dict)]
    ends = [way.get(end) for way in ways for end in ("from", "to")]
    words = filter(None, map(_word, (initial, *_items(states), *ends)))
    ids = {word: f"state-{number}" for number, word in enumerate(dict.fromkeys(words), 1)}
    return [_action(word, ids, ways) for word in ids]


def _action(state: str, ids: dict[str, str], ways: list[JsonObject]) -> JsonObject:
    following = dict.fromkeys(
        _word(way.get("to")) for way in ways if _word(way.get("from")) == state
    )
    action: JsonObject = {"id": ids[state], "title": state}
    related = [
        {"actionId": ids[word], "relationship": "before"} for word in following if word in ids
    ]
    return {**action, "relatedAction": related} if related else action


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _word(state: Any) -> str | None:
    if isinstance(state, dict):
        state = state.get("code") or state.get("name")
    return state if isinstance(state, str) and state else None


def lens(public_url: str | None) -> ViewLens:
    return ViewLens(MAPPING, _load, "a workflow of this organization")
