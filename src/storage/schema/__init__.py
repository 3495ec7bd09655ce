"""The relational model of data-schema.md: importing this package defines every table."""

from __future__ import annotations

from importlib import import_module

from storage.schema.declarative import Base, Sensitivity

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
    "ai",
    "integrations",
    "billing",
    "knowledge",
    "governance",
    "research",
    "emergency",
    "encryption",
    "read_model",
    "search_parameters",
)

for _module in MODULES:
    import_module(f"{__name__}.{_module}")

metadata = Base.metadata

__all__ = ["MODULES", "Base", "Sensitivity", "metadata"]
