"""Writes the tables of docs/access.md from the code that decides; a test keeps them current."""

from __future__ import annotations

from pathlib import Path

from interop.access.compartments import is_in_compartment
from interop.access.permissions import GROUPS
from interop.access.routes import ROUTES
from storage.schema.reference_rows import PERMISSIONS, ROLES

TARGET = Path(__file__).parents[1] / "docs" / "access.md"
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"


def permissions() -> str:
    rows = [
        "| resource types | reading (r, s) | writing (c, u, d) | of a patient |",
        "|---|---|---|---|",
    ]
    for group in GROUPS:
        of_patient = [type_ for type_ in group.types if is_in_compartment(type_)]
        whose = "no" if group.is_shared else "yes" if of_patient == list(group.types) else "in part"
        listed = ", ".join(group.types)
        rows.append(f"| **{group.name}**: {listed} | `{group.read}` | `{group.write}` | {whose} |")
    return "\n".join(rows)


def roles() -> str:
    rows = ["| permission | what it opens | roles that have it |", "|---|---|---|"]
    for code, text in PERMISSIONS.items():
        holders = ", ".join(f"`{role}`" for role, (_, codes) in ROLES.items() if code in codes)
        rows.append(f"| `{code}` | {text} | {holders} |")
    return "\n".join(rows)


def routes() -> str:
    rows = ["| method | route | guard | scope letter |", "|---|---|---|---|"]
    for (method, path), rule in ROUTES.items():
        shown = "any" if method == "*" else method
        rows.append(f"| {shown} | `{path}` | {rule.guard} | {rule.letter} |")
    return "\n".join(rows)


def document(current: str) -> str:
    """The page with its tables as they should be."""
    for name, table in (("permissions", permissions()), ("roles", roles()), ("routes", routes())):
        head, _, rest = current.partition(BEGIN.format(name))
        _, _, tail = rest.partition(END.format(name))
        current = f"{head}{BEGIN.format(name)}\n{table}\n{END.format(name)}{tail}"
    return current


if __name__ == "__main__":
    TARGET.write_text(document(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
