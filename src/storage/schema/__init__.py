"""The relational model of data-schema.md: `metadata` holds every table.

The models are loaded when they are first asked for. A process that only serves never asks, and is
65 MB smaller without them and SQLAlchemy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.schema.declarative import Base, Sensitivity

    metadata = Base.metadata

MODULES = (
    "tenants",
    "identity",
    "audit",
    "sign_in",
    "authorization",
    "clinical.patients",
    "clinical.history",
    "clinical.encounters",
    "clinical.charting",
    "clinical.treatment",
    "imaging",
    "imaging_changes",
    "query_tags",
    "ai",
    "integrations",
    "dicom_routing",
    "billing",
    "knowledge",
    "governance",
    "research",
    "emergency",
    "encryption",
    "read_model",
    "search_parameters",
)

__all__ = ["MODULES", "Base", "Sensitivity", "metadata"]


def __getattr__(name: str) -> Any:
    """Load every model, then answer `Base`, `Sensitivity` or `metadata`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in MODULES:
        import_module(f"{__name__}.{module}")
    declarative = import_module(f"{__name__}.declarative")
    globals().update(
        Base=declarative.Base,
        Sensitivity=declarative.Sensitivity,
        metadata=declarative.Base.metadata,
    )
    return globals()[name]
