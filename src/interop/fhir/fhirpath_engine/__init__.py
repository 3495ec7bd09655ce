"""FHIRPath on resources: invariants, discriminators of slices, and the paths of patches.

    compile_condition("start <= end")([item], environment)  ->  True | False | None
    compile_values("name.given")([item], environment)       ->  Items with .value, .path()

What cannot be compiled raises FhirPathError, what fails on a resource EvaluationError. Time is
bounded by the budget of the environment, patterns run in linear time.
"""

from interop.fhir.fhirpath import FhirPathError
from interop.fhir.fhirpath_engine.compiler import (
    Evaluator,
    Predicate,
    compile_condition,
    compile_values,
)
from interop.fhir.fhirpath_engine.environment import Budget, Environment
from interop.fhir.fhirpath_engine.items import CHILDREN, Item, is_type, navigate, resource_item
from interop.fhir.fhirpath_engine.values import EvaluationError, plain

__all__ = [
    "CHILDREN",
    "Budget",
    "Environment",
    "EvaluationError",
    "Evaluator",
    "FhirPathError",
    "Item",
    "Predicate",
    "compile_condition",
    "compile_values",
    "evaluate",
    "is_type",
    "navigate",
    "plain",
    "resource_item",
]


def evaluate(expression: str, resource: dict[str, object]) -> list[object]:
    """What an expression yields on a resource: Items, and plain values that were computed.

    Raises FhirPathError or EvaluationError.
    """
    root = resource_item(resource)
    try:
        return compile_values(expression)([root], Environment(root, root, [root]))
    except RecursionError:
        raise EvaluationError("nested too deep") from None
