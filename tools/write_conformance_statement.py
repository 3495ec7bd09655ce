"""Write the DICOM conformance statement and the IHE integration statement from the running code.

    .venv/bin/python tools/write_conformance_statement.py

The tables are those that the listener, the router and the ingest work by; a test fails when the
files and the code differ. Order of the sections: PS3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from pydicom.charset import python_encoding
from pydicom.uid import UID

from interop.dicom import failures
from interop.dicom.decodable import COMPRESSED, NATIVE, TARGETS
from interop.dicom.failures import Code
from interop.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from interop.dicom.limits import DEFAULT_LIMITS
from interop.dicom.query.attributes import ATTRIBUTES, Level
from interop.dicomweb import router
from interop.dimse import presentation
from interop.dimse.policy import AssociationLimits
from interop.dimse.services import SERVICES
from interop.dimse.transport_guard import TransportLimits

ROOT = Path(__file__).resolve().parent.parent / "conformance"
STATEMENT = ROOT / "dicom-conformance-statement.md"
IHE = ROOT / "ihe-integration-statement.md"
PRODUCT = "dental-interop"

# What the product does as a client, by SOP class or service; the rest is read from the code.
AS_SCU = {
    "C-ECHO": "`interop echo`, `interop ae echo`",
    "C-STORE": "`interop send`, C-MOVE and C-GET, routing rules",
    "C-FIND": "`interop pull`",
    "C-MOVE": "`interop pull --method move`",
    "C-GET": "`interop pull --method get`",
    "N-ACTION": "storage commitment of what was sent",
    "N-EVENT-REPORT": "result of a storage commitment",
}
LEVELS = {
    Level.PATIENT: "PATIENT (C-FIND), studies",
    Level.STUDY: "STUDY, studies",
    Level.SERIES: "SERIES, series",
    Level.INSTANCE: "IMAGE, instances",
}
CHARACTER_SETS = tuple(term for term in python_encoding if term)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(cell or ' ' for cell in row)} |" for row in rows), ""]


def named(uid: str) -> tuple[str, str]:
    """A UID's name in PS3.6, and the UID."""
    name = UID(uid).name
    return ("(not in PS3.6 2024)" if name == uid else name), uid


def by_number(uids: Iterable[str]) -> list[str]:
    return sorted(uids, key=lambda uid: [int(part) for part in uid.split(".")])


def overview() -> list[str]:
    rows = [("C-STORE", "all storage SOP classes (4.2.1)", AS_SCU["C-STORE"], "yes")]
    for service in SERVICES:
        names = ", ".join(named(uid)[0] for uid in service.sop_classes)
        scu = AS_SCU.get(service.operation, "")
        rows.append((service.operation, names, scu, "yes" if service.role == "SCP" else ""))
    web = [
        ("Store (STOW-RS)", "PS3.18 10.5", "yes"),
        ("Search (QIDO-RS)", "PS3.18 10.6", "yes"),
        ("Retrieve (WADO-RS), rendered and thumbnails", "PS3.18 10.4", "yes"),
    ]
    if has_wado_uri():
        web.append(("WADO-URI", "PS3.18 9", "yes"))
    return [
        "## 1 Conformance statement overview",
        "",
        f"{PRODUCT} is an image archive for dental clinics with several tenants. It stores what "
        "devices and PACS send, unchanged, answers queries and retrievals over DIMSE and over the "
        "web, analyses images and adds its reports as DICOM SR and SEG. It prints nothing and "
        "writes no media.",
        "",
        *table(("Network service", "SOP classes", "as user (SCU)", "as provider (SCP)"), rows),
        *table(("Web service", "Standard", "Origin server"), web),
    ]


def has_wado_uri() -> bool:
    return any("wado" in path.lower() for path in router.GET)


def introduction() -> list[str]:
    return [
        "## 2 Introduction",
        "",
        "For those who connect devices, PACS, viewers and record systems. It assumes knowledge of "
        "the DICOM standard and says what this product does of it; it does not replace tests of "
        "two products with each other. `make conformance` checks a running server against the "
        "requirements claimed here, one by one.",
        "",
        *table(
            ("", ""),
            [
                ("Product", PRODUCT),
                ("Version", version(PRODUCT)),
                ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
                ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
            ],
        ),
    ]


def model() -> list[str]:
    return [
        "## 3 Implementation model",
        "",
        *table(
            ("Application entity", "What it does"),
            [
                (
                    "DIMSE listener, one AE title for each tenant",
                    "Receives objects, answers queries, sends what is asked for, commits. The "
                    "called AE title chooses the tenant; nothing of another tenant is reachable.",
                ),
                (
                    "DIMSE client, the tenant's AE title",
                    "Sends for C-MOVE, by routing rules and on command; queries and fetches from "
                    "a PACS; asks for storage commitment and reports it.",
                ),
                (
                    "Web server, `/t/{tenant}/dicom-web`",
                    "Origin server of the web services; every request carries an OAuth 2.0 bearer "
                    "token of the tenant.",
                ),
                (
                    "Analysis",
                    "Looks at a study when nothing more of it has come for a while, and stores a "
                    "Comprehensive 3D SR (TID 1500) and a Segmentation through the same path as "
                    "objects from outside.",
                ),
            ],
        ),
    ]


def associations() -> list[str]:
    limits, counts = TransportLimits(), AssociationLimits()
    return [
        "## 4 Networking",
        "",
        "### 4.1 Association policies",
        "",
        *table(
            ("", ""),
            [
                ("Application context", presentation.APPLICATION_CONTEXT_NAME),
                ("Maximum PDU size received", f"{limits.advertised_pdu_bytes} bytes"),
                ("Associations accepted at a time", f"{counts.per_process} for each process, "
                 f"{counts.per_tenant} for each tenant, {counts.per_peer} for each peer; "
                 "configurable by tenant and peer"),
                ("Asynchronous operations", f"up to {presentation.MAX_OPERATIONS} outstanding "
                 "operations are accepted as acceptor; requests are served in order. As requestor: "
                 "1"),
                ("Time for the A-ASSOCIATE-RQ", f"{limits.associate_seconds:.0f} s (ARTIM)"),
                ("Time for a PDU", f"{limits.pdu_seconds:.0f} s"),
                ("Silence on an association", f"{limits.idle_seconds:.0f} s, then A-ABORT"),
                ("SCP/SCU role selection", "accepted, for C-GET and storage commitment"),
                ("Extended negotiation", "storage: level 2, digital signature level 3, no "
                 "coercion; C-FIND, C-MOVE, C-GET: see `docs/dimse-services.md`"),
                ("User identity", "not negotiated; peers are known by AE title, network address "
                 "and TLS certificate"),
            ],
        ),
        "An association is rejected as `docs/dicom-tls.md` says: 1/1/7 unknown called AE title, "
        "1/1/3 calling AE that is not registered or not from where it should be, 2/3/2 limit "
        "exceeded, 2/3/1 congestion.",
        "",
    ]  # fmt: skip


def contexts() -> list[str]:
    storage = [named(uid) for uid in by_number(presentation._NAMED_STORAGE)]
    syntaxes = [
        (*named(uid), "yes" if uid in NATIVE | COMPRESSED else "", "yes" if uid in TARGETS else "")
        for uid in by_number(presentation.STORAGE_TRANSFER_SYNTAXES)
    ]
    services = [
        (service.operation, *named(uid), service.role)
        for service in SERVICES
        for uid in service.sop_classes
    ]
    plain = ", ".join(named(uid)[0] for uid in by_number(presentation.SERVICE_TRANSFER_SYNTAXES))
    return [
        "### 4.2 Presentation contexts",
        "",
        "#### 4.2.1 Storage",
        "",
        "Every storage SOP class is accepted, also private ones that the peer declares by SOP "
        "class common extended negotiation, and ones newer than this table under the root "
        "1.2.840.10008.5.1.4.1.1. All attributes are kept, private ones too; nothing is coerced. "
        "The first transfer syntax of the proposal that is in the next table is accepted.",
        "",
        *table(("SOP class", "UID"), storage),
        "#### 4.2.2 Transfer syntaxes of stored objects",
        "",
        "Objects stay in the transfer syntax in which they came. `decoded`: rendered, and sent in "
        "another one; `made`: what others are sent in when they are asked for so (lossless).",
        "",
        *table(("Transfer syntax", "UID", "decoded", "made"), syntaxes),
        "#### 4.2.3 Other services",
        "",
        f"In {plain}.",
        "",
        *table(("Operation", "SOP class", "UID", "Our role"), services),
    ]


def keys() -> list[str]:
    rows = []
    for level in Level:
        names = [a.keyword for a in ATTRIBUTES if a.level == level]
        rows.append((LEVELS[level], ", ".join(names)))
    return [
        "### 4.3 Matching keys of C-FIND and QIDO-RS",
        "",
        "An attribute is matched at its level and below. Matching is case-sensitive but for names, "
        "where neither case nor accents count. `*` and `?` are wildcards; dates and times take "
        "ranges; UIDs and coded strings take lists. A tenant may add keys (extended query tags).",
        "",
        *table(("Level", "Keys"), rows),
    ]


def statuses() -> list[str]:
    codes = [value for value in vars(failures).values() if isinstance(value, Code)]
    rows = [(one.name, f"{one.dicom_status:04X}", f"{one.reason:04X}") for one in codes]
    return [
        "### 4.4 Status and failure codes of storage",
        "",
        "With Error Comment (0000,0902). The same bytes again succeed and change nothing.",
        "",
        *table(("Meaning", "C-STORE Status", "STOW-RS Failure or Warning Reason"), rows),
    ]


def web() -> list[str]:
    rows = []
    paths = list(dict.fromkeys([*router.GET, *router.POST, *router.DELETE]))
    for path in paths:
        methods = [
            name
            for name, handled in (
                ("GET", router.GET),
                ("POST", router.POST),
                ("DELETE", router.DELETE),
            )
            if path in handled
        ]
        rows.append((f"`{path}`", ", ".join(methods)))
    return [
        "## 5 Web services",
        "",
        f"Below `{router.ROOT}`. Media types, parameters and choices where the standard leaves "
        "one: `docs/dicomweb-store.md`, `docs/dicom-query.md`, `docs/dicomweb-retrieve.md` and "
        "`docs/decisions/0005-dicomweb.md`.",
        "",
        *table(("Resource", "Methods"), rows),
    ]


def rest() -> list[str]:
    limits = DEFAULT_LIMITS
    return [
        "## 6 Media interchange",
        "",
        "None. `interop import` reads Part 10 files from folders.",
        "",
        "## 7 Character sets",
        "",
        "Specific Character Set is honoured with code extensions; answers are in ISO_IR 192. "
        "What a set cannot decode is shown as U+FFFD and kept as it came. Understood: "
        + ", ".join(CHARACTER_SETS) + ".",
        "",
        "## 8 Security",
        "",
        "DICOM TLS as BCP 195 (PS3.15 B.12): TLS 1.3, and 1.2 with ECDHE and AES-GCM or ChaCha20; "
        "client certificates, registered by peer (`docs/dicom-tls.md`). The web services want a "
        "bearer token (SMART App Launch 2.2, `docs/access.md`). Every access is in a tamper-evident"
        " audit log, presented as FHIR AuditEvent (`docs/audit.md`). The preamble of stored files "
        "is cleared; digital signatures are kept and not verified.",
        "",
        "Limits of one object: "
        f"{limits.object_bytes >> 30} GiB, {limits.depth} levels of sequences, "
        f"{limits.elements} elements, {limits.items} items, {limits.frames} frames.",
        "",
        "## 9 Objects that the product makes",
        "",
        *table(
            ("Object", "SOP class", "When"),
            [
                ("Comprehensive 3D SR, TID 1500", "1.2.840.10008.5.1.4.1.1.88.34",
                 "findings of an analysis, and their review"),
                ("Segmentation", "1.2.840.10008.5.1.4.1.1.66.4", "regions of an analysis"),
            ],
        ),
        "No private attributes. UIDs are of the root 2.25 (ISO/IEC 9834-8), made from the image "
        "and the model, so that a repeated analysis makes the same object.",
        "",
        "## 10 Configuration",
        "",
        "AE titles and their rights by `interop ae` and the administration API; ports and limits "
        "by the settings of `docs/settings.md`.",
        "",
    ]  # fmt: skip


def statement() -> str:
    head = [
        f"# DICOM conformance statement of {PRODUCT} {version(PRODUCT)}",
        "",
        "Made by `tools/write_conformance_statement.py` from the code that serves; a test compares "
        "them. Sections follow PS3.2.",
        "",
    ]
    parts = (
        overview(), introduction(), model(), associations(), contexts(), keys(), statuses(),
        web(), rest(),
    )  # fmt: skip
    return "\n".join(line for part in (head, *parts) for line in part)


def ihe() -> str:
    return "\n".join(
        [
            f"# IHE integration statement of {PRODUCT} {version(PRODUCT)}",
            "",
            "What is claimed, and by which transactions. Nothing was tested at a Connectathon yet.",
            "",
            *table(
                ("Profile", "Actor", "Options", "Transactions"),
                [
                    ("Scheduled Workflow (SWF.b)", "Image Manager / Image Archive",
                     "none of PPS and worklist", "RAD-8 modality images stored (C-STORE), RAD-10 "
                     "storage commitment, RAD-14 query images (C-FIND), RAD-16 retrieve images "
                     "(C-MOVE, C-GET)"),
                    ("Web-based Image Access (WIA)", "Imaging Document Responder (DICOMweb)",
                     "none", "RAD-107 WADO-RS retrieve, RAD-129 QIDO-RS query"),
                    ("Internet User Authorization (IUA)", "Authorization Server, Resource Server",
                     "JWT token, introspection", "ITI-71, ITI-72, ITI-102, ITI-103"),
                    ("Audit Trail and Node Authentication (ATNA)", "Secure Application",
                     "TLS 1.2 floor using BCP 195", "ITI-19 authenticate node"),
                    ("Basic Audit Log Patterns (BALP)", "Audit Creator",
                     "RESTful (read and search of AuditEvent)", "patterns of REST and of privacy "
                     "disclosures"),
                    ("Consistent Time (CT)", "Time Client", "by the operating system",
                     "ITI-1 maintain time"),
                ],
            ),
            "Sources: DICOM as in `dicom-conformance-statement.md`; FHIR R4 as in "
            "`capability-statement.json`.",
            "",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    STATEMENT.write_text(statement(), encoding="utf-8")
    IHE.write_text(ihe(), encoding="utf-8")
    print(f"{STATEMENT.name} and {IHE.name} written")
