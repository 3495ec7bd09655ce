"""Who the demo is about: three invented people. No name, number or date is of a real person."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import NAMESPACE_URL, UUID, uuid5

ISSUER = "DEMO-CLINIC"


@dataclass(frozen=True, slots=True)
class DemoPatient:
    """One invented patient; `seed` decides mouth and images."""

    mrn: str
    family: str
    given: str
    birth_date: str  # YYYY-MM-DD
    sex: str  # DICOM: F, M
    seed: int
    email: str
    phone: str

    @property
    def id(self) -> UUID:
        return demo_id("patient", self.mrn)

    @property
    def dicom_name(self) -> str:
        return f"{self.family}^{self.given}"


PATIENTS = (
    DemoPatient("D-1001", "Lindqvist", "Maja", "1987-04-12", "F", 11,
                "maja@example.org", "+46-555-0101"),
    DemoPatient("D-1002", "Okafor", "Daniel", "1969-11-30", "M", 23,
                "daniel@example.org", "+44-555-0102"),
    DemoPatient("D-1003", "Tanaka", "Yuki", "2001-07-08", "F", 37,
                "yuki@example.org", "+81-555-0103"),
)  # fmt: skip


def demo_id(*names: object) -> UUID:
    """The same id for the same names, at every run and on every machine."""
    return uuid5(NAMESPACE_URL, "urn:dental-interop:demo:" + ":".join(map(str, names)))


def demo_uid(*names: object) -> str:
    """A DICOM UID of the same kind (PS3.5 B.2)."""
    digest = hashlib.sha256(("demo:" + ":".join(map(str, names))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
