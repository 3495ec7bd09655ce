"""The real server meets what `make conformance` asks of any server, the optional things too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.__main__ import our_own, requirements
from conformance.requirements import Finding, Requirement, Verdict, look


@pytest.fixture(scope="module")
def findings() -> Iterator[dict[Requirement, Finding]]:
    with our_own() as (_, peer):
        yield {finding.requirement: finding for finding in look(requirements(), peer)}
        peer.close()


@pytest.mark.filterwarnings("default")  # pydicom's, of what it reads
@pytest.mark.parametrize(
    "requirement", [pytest.param(one, id=f"{one.service}-{one.name}") for one in requirements()]
)
def test_the_requirement_is_met(
    findings: dict[Requirement, Finding], requirement: Requirement
) -> None:
    finding = findings[requirement]

    assert finding.verdict is Verdict.MET, f"{requirement.source}: {finding.detail}"
