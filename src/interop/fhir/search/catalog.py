"""Which search parameters a type has for whoever asks: R4's, and the tenant's own.

The request that is being answered names its tenant once (`of_tenant`), as it does for its audit
row; everything that reads parameters of a search asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from interop.errors import ServerError
from interop.fhir.definitions import SearchParameter, definitions


class ParametersChanged(ServerError):
    """The organization's search parameters were changed in this moment; ask again."""

    http_status = 503
    issue_code = "transient"


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomParameter(SearchParameter):
    """A parameter that a tenant defined, as of the epoch that its index must be of.

    `progress` says how far that is built, while the parameter is not ready.
    """

    definition_id: str
    epoch: int
    is_ready: bool
    progress: str

    def has_index(self) -> bool:
        return self.is_ready


Catalog = Callable[[str], Mapping[str, SearchParameter]]


def r4(resource_type: str) -> Mapping[str, SearchParameter]:
    """R4's own parameters of a type by their codes."""
    return definitions().search_parameters[resource_type]


_catalog: ContextVar[Catalog] = ContextVar("catalog", default=r4)


def parameters(resource_type: str) -> Mapping[str, SearchParameter]:
    """The parameters of a type by their codes, those among them that are still being built."""
    return _catalog.get()(resource_type)


@contextmanager
def catalog(found: Catalog) -> Iterator[None]:
    """Answer by these parameters until the end of the block."""
    token = _catalog.set(found)
    try:
        yield
    finally:
        _catalog.reset(token)


def used(parameters: Iterable[SearchParameter]) -> list[CustomParameter]:
    """Those of a search's parameters whose index must be whole in the moment of the search."""
    found = {one.definition_id: one for one in parameters if isinstance(one, CustomParameter)}
    return [found[definition_id] for definition_id in sorted(found)]
