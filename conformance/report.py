"""What a run found, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from conformance.requirements import Finding, Verdict

_SIGNS = {Verdict.MET: "yes", Verdict.NOT_MET: "**no**", Verdict.NOT_OFFERED: "not offered"}


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    counted = Counter(finding.verdict for finding in findings)
    return {verdict.value: counted[verdict] for verdict in Verdict}


def as_json(server: str, findings: Sequence[Finding]) -> dict[str, Any]:
    rows = []
    for finding in findings:
        requirement = asdict(finding.requirement)
        del requirement["check"]
        rows.append(
            {
                "name": finding.requirement.name,
                **requirement,
                "verdict": finding.verdict.value,
                "detail": finding.detail,
                "seconds": round(finding.seconds, 3),
            }
        )
    return {"server": server, "counts": counts(findings), "findings": rows}


def as_markdown(server: str, findings: Sequence[Finding]) -> str:
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts(findings).items())
    lines = [f"# DICOM conformance of {server}", "", f"{said}.", ""]
    service = ""
    for finding in findings:
        requirement = finding.requirement
        if requirement.service != service:
            service = requirement.service
            lines += [f"## {service}", "", "| Requirement | Source | Met |", "|---|---|---|"]
        text = requirement.text + (" (optional)" if requirement.is_optional else "")
        detail = finding.detail.replace("|", "\\|")
        found = _SIGNS[finding.verdict] + (f": {detail}" if detail else "")
        lines.append(f"| {text} | {requirement.source} | {found} |")
    return "\n".join(lines) + "\n"
