"""Enums that say more than a required code of R4: the code, and an extension for the rest.

A treatment plan that was presented is a draft to R4, and one accepted in part is active: the
extension keeps such values apart. It counts only beside the code that it refines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from interop.fhir.lens import JsonObject
from interop.fhir.mappings.converters import Codes
from interop.fhir.mappings.path import Path, path


@dataclass(frozen=True, slots=True)
class Refined:
    """An enum on the resource itself: `element`, and `url` where its code has several meanings.

    `codes` are those that R4 knows, the first of a value is written; `refinements` are the values
    that share the code of another one. `default` stands for codes that no value has.
    """

    element: str
    codes: Codes
    url: str
    refinements: Mapping[str, str]
    default: str
    _extension: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_extension", path(f"extension[url={self.url}]"))

    @property
    def label(self) -> str:
        more = (
            f"{value} = {self.codes.enum_to_code[base]} with our extension {self.code_of(value)}"
            for value, base in self.refinements.items()
        )
        return "; ".join((f"{self.element}: {self.codes.label}", *more))

    @staticmethod
    def code_of(value: str) -> str:
        """How the extension spells a value."""
        return value.lower().replace("_", "-")

    def get(self, node: JsonObject) -> str:
        base = self.codes.get(node.get(self.element)) or self.default
        said = (self._extension.get(node) or {}).get("valueCode")
        return next(
            (
                value
                for value, refined in self.refinements.items()
                if refined == base and self.code_of(value) == said
            ),
            base,
        )

    def put(self, value: str, node: JsonObject) -> JsonObject:
        base = self.refinements.get(value, value)
        result = node
        if self.codes.get(node.get(self.element)) != base:
            result = path(self.element).put(result, self.codes.put(base, None))
        extension = {"url": self.url, "valueCode": self.code_of(value)} if value != base else None
        return self._extension.put(result, extension)
