"""Why a DICOM object was refused, failed or stored with a warning.

One table of codes. ``reason`` is what STOW-RS puts into Failure Reason (0008,1197) or Warning
Reason (0008,1196) (PS3.18 Table I.2-2, PS3.3 C.14.1.1); ``dicom_status`` is the Status (0000,0900)
of the C-STORE response (PS3.4 Table B.2-1, PS3.7 Annex C). Where both lists know a case the
numbers are the same on purpose: one incident has one number whichever door it came through.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """One number of the standard, on both wires."""

    name: str
    reason: int
    dicom_status: int


# PS3.4 B.2.3 "Refused: Out of Resources" A7xx; PS3.18 Table I.2-2 A7xx.
OUT_OF_RESOURCES = Code("out of resources", 0xA700, 0xA700)
# PS3.4 B.2.3 A7xx as above: the object is larger than the server takes (HTTP 413).
OBJECT_TOO_LARGE = Code("object too large", 0xA700, 0xA700)
# PS3.4 B.2.3 "Error: Data Set does not match SOP Class" A9xx; PS3.18 Table I.2-2 A9xx.
DATA_SET_MISMATCH = Code("data set does not match", 0xA900, 0xA900)
# PS3.4 B.2.3 "Error: Cannot understand" Cxxx; PS3.18 Table I.2-2 Cxxx. The sub-codes are ours.
CANNOT_UNDERSTAND = Code("cannot understand", 0xC000, 0xC000)
NOT_DICOM = Code("not a DICOM object", 0xC001, 0xC001)
TRUNCATED = Code("truncated data set", 0xC002, 0xC002)
MISSING_UID = Code("required UID missing", 0xC003, 0xC003)
INVALID_UID = Code("UID not valid", 0xC004, 0xC004)
LIMIT_EXCEEDED = Code("structure limit exceeded", 0xC005, 0xC005)
# Metadata that is no JSON or XML of DICOM at all: bad syntax, which PS3.18 10.5.3.1 answers by 400.
MALFORMED = Code("malformed metadata", 0xC006, 0xC006)
# PS3.18 Table I.2-2 C122 "Referenced Transfer Syntax not supported". DIMSE negotiates transfer
# syntaxes before a C-STORE, so the nearest status there is Cxxx as well.
TRANSFER_SYNTAX_NOT_SUPPORTED = Code("transfer syntax not supported", 0xC122, 0xC122)
# PS3.7 C.5.1 "Duplicate SOP Instance" 0111H. PS3.18 I.2.1.3 allows status values of PS3.7 Annex C.
DUPLICATE_SOP_INSTANCE = Code("other bytes under a known SOP Instance UID", 0x0111, 0x0111)
# PS3.7 C.5.9 and PS3.18 Table I.2-2 "Processing failure" 0110H.
PROCESSING_FAILURE = Code("processing failure", 0x0110, 0x0110)
# PS3.7 C.5.6 and PS3.18 Table I.2-2 "Referenced SOP Class not supported" 0122H.
SOP_CLASS_NOT_SUPPORTED = Code("SOP class not supported", 0x0122, 0x0122)
# PS3.7 C.5.7 "Refused: Not authorized" 0124H.
NOT_AUTHORIZED = Code("not authorized", 0x0124, 0x0124)
# PS3.4 B.2.3 and PS3.18 Table I.2-1 "Coercion of Data Elements" B000H.
COERCION = Code("coercion of data elements", 0xB000, 0xB000)
# PS3.4 B.2.3 and PS3.18 Table I.2-1 "Data Set does not match SOP Class" B007H (a warning).
DATA_SET_MISMATCH_WARNING = Code("data set does not match", 0xB007, 0xB007)
# Ours, in the A9xx class "Data Set does not match": the study UID is known with another patient.
# The object is kept in quarantine, because storing it would show one person's image in another
# person's study, and answered as a failure, because it is not visible (security.md B10).
PATIENT_CONFLICT = Code("study belongs to another patient", 0xA910, 0xA910)

SUCCESS = 0x0000

# Failure Reasons of Storage Commitment alone (PS3.3 Table C.14-1, PS3.7 Annex C).
NO_SUCH_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
DUPLICATE_TRANSACTION_UID = 0x0131


class Failure(Exception):
    """A DICOM object was not accepted."""

    def __init__(self, reason: int, dicom_status: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.dicom_status = dicom_status
        self.message = message

    @classmethod
    def of(cls, code: Code, message: str) -> Failure:
        return cls(code.reason, code.dicom_status, message)

    @property
    def error_comment(self) -> str:
        """The message as Error Comment (0000,0902) takes it: VR LO, 64 characters, one line."""
        return "".join(c if " " <= c <= "~" and c != "\\" else " " for c in self.message)[:64]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Failure):
            return NotImplemented
        return (self.reason, self.dicom_status, self.message) == (
            other.reason,
            other.dicom_status,
            other.message,
        )

    def __hash__(self) -> int:
        return hash((self.reason, self.dicom_status, self.message))

    def __repr__(self) -> str:
        return f"Failure(0x{self.reason:04X}, {self.message!r})"
