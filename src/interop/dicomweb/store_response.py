"""The Store Instances Response Module (PS3.18 Annex I) and the status that goes with it.

200 all stored without a warning, 202 some stored or stored with warnings, 400 none stored because
nothing is JSON or XML of DICOM, 409 none stored, 413 none stored because they are too large, 503
none stored for want of resources; an error of the request as a whole keeps its own status when
nothing was stored (PS3.18 Table 10.5.3-1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import orjson

from interop.dicom.failures import (
    DATA_SET_MISMATCH_WARNING,
    MALFORMED,
    OBJECT_TOO_LARGE,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    Failure,
)
from interop.dicom.ingest_types import Kind, Outcome
from interop.dicom.json_dataset import Identity
from interop.dicom.native_model import to_xml
from interop.dicom.query.attributes import tag_of
from interop.dicom.spool import SpoolLimitExceeded
from interop.dicomweb.media_types import DICOM_JSON, DICOM_XML, JSON, MediaType
from interop.errors import NotAcceptable, ServerError

Json = dict[str, Any]

_RETRIEVE_URL = tag_of("RetrieveURL")
_FAILED_SOP_SEQUENCE = tag_of("FailedSOPSequence")
_OTHER_FAILURES_SEQUENCE = tag_of("OtherFailuresSequence")
_REFERENCED_SOP_SEQUENCE = tag_of("ReferencedSOPSequence")
_REFERENCED_SOP_CLASS_UID = tag_of("ReferencedSOPClassUID")
_REFERENCED_SOP_INSTANCE_UID = tag_of("ReferencedSOPInstanceUID")
_FAILURE_REASON = tag_of("FailureReason")
_WARNING_REASON = tag_of("WarningReason")
_ERROR_COMMENT = tag_of("ErrorComment")
_FAILED_ATTRIBUTES_SEQUENCE = tag_of("FailedAttributesSequence")
_LONGEST_COMMENT = 64


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What became of the parts of one request, in order; `error` is what ended it early."""

    outcomes: Sequence[Outcome]
    error: ServerError | None = None

    @property
    def stored(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.is_success]

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.is_success]

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        stored, failed = self.stored, self.failed
        if stored:
            warned = any(outcome.warning or outcome.oddities for outcome in stored)
            return 202 if failed or warned or self.error else 200
        if self.error is not None:
            return self.error.http_status
        if failed and all(outcome.kind == "failed" for outcome in failed):
            return 503
        if failed and all(_is_too_large(outcome) for outcome in failed):
            return 413
        if failed and all(_is_malformed(outcome) for outcome in failed):
            return 400
        return 409

    def body(self, root: str, media_type: str) -> bytes:
        """The response module; `root` is what retrieve URLs begin with."""
        module = self.module(root)
        if media_type == DICOM_XML:
            return to_xml(module)
        return orjson.dumps(module, option=orjson.OPT_SORT_KEYS)

    def module(self, root: str) -> Json:
        """The response module in the DICOM JSON Model."""
        studies = {outcome.study_instance_uid for outcome in self.stored}
        # Type 2: empty where the instances are of several studies or none was stored.
        module: Json = {_RETRIEVE_URL: {"vr": "UR"}}
        if len(studies) == 1:
            module[_RETRIEVE_URL] = _value("UR", f"{root}/studies/{studies.pop()}")
        known = [o for o in self.failed if o.sop_class_uid and o.sop_instance_uid]
        unknown = [_failure(o) for o in self.failed if not (o.sop_class_uid and o.sop_instance_uid)]
        if self.error is not None:
            unknown.append(_reason(Failure.of(PROCESSING_FAILURE, self.error.diagnostics)))
        if known:
            module[_FAILED_SOP_SEQUENCE] = _sequence([_reference(o) | _failure(o) for o in known])
        if unknown:
            module[_OTHER_FAILURES_SEQUENCE] = _sequence(unknown)
        if self.stored:
            module[_REFERENCED_SOP_SEQUENCE] = _sequence(
                [_success(outcome, root) for outcome in self.stored]
            )
        return module


def choose_report(wanted: Iterable[MediaType]) -> str:
    """The media type of the response module. Raises NotAcceptable."""
    for media_type in wanted:
        if media_type.is_multipart:
            continue
        for name in (DICOM_JSON, JSON, DICOM_XML):
            if media_type.admits(name):
                return name
    raise NotAcceptable(
        f"the result is answered as {DICOM_JSON} or {DICOM_XML}; accept one of them, or {JSON}"
    )


def could_not_spool(failure: Failure, identity: Identity | None = None) -> Outcome:
    """The outcome of a part that never became a whole object, with the UIDs that it is to have."""
    is_full = failure.reason == OUT_OF_RESOURCES.reason
    is_passing = is_full and not isinstance(failure, SpoolLimitExceeded)
    kind: Kind = "failed" if is_passing else "refused"
    if identity is None:
        return Outcome(kind, "", "", "", "", failure=failure)
    return Outcome(
        kind,
        identity.sop_class_uid,
        identity.sop_instance_uid,
        identity.study_instance_uid,
        identity.series_instance_uid,
        failure=failure,
    )


def _is_malformed(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.reason == MALFORMED.reason


def _is_too_large(outcome: Outcome) -> bool:
    # The number is that of a full disk as well; refused for good is what tells them apart.
    failure = outcome.failure
    return failure is not None and failure.reason == OBJECT_TOO_LARGE.reason


def _success(outcome: Outcome, root: str) -> Json:
    item = _reference(outcome)
    item[_RETRIEVE_URL] = _value(
        "UR",
        f"{root}/studies/{outcome.study_instance_uid}/series/{outcome.series_instance_uid}"
        f"/instances/{outcome.sop_instance_uid}",
    )
    warning = outcome.warning
    if warning is None and outcome.oddities:
        warning = Failure.of(DATA_SET_MISMATCH_WARNING, outcome.oddities[0])
    if warning is not None:
        told = (warning.message,) if outcome.warning else ()
        item[_WARNING_REASON] = _value("US", warning.reason)
        item[_ERROR_COMMENT] = _value("LO", warning.error_comment)
        item[_FAILED_ATTRIBUTES_SEQUENCE] = _comments(*told, *outcome.oddities)
    return item


def _failure(outcome: Outcome) -> Json:
    failure = outcome.failure or Failure.of(PROCESSING_FAILURE, "The object was not stored.")
    return _reason(failure)


def _reason(failure: Failure) -> Json:
    # The text is not in Annex I, and a number alone has never helped anybody. Short in Error
    # Comment, whole in the sequence in which the DICOM service of Azure explains a failure too.
    return {
        _FAILURE_REASON: _value("US", failure.reason),
        _ERROR_COMMENT: _value("LO", failure.error_comment),
        _FAILED_ATTRIBUTES_SEQUENCE: _comments(failure.message),
    }


def _comments(*texts: str) -> Json:
    """Failed Attributes Sequence: the whole of each text, in lines that Error Comment can hold."""
    lines = [line for text in texts for line in wrap(_printable(text), _LONGEST_COMMENT)]
    return _sequence([{_ERROR_COMMENT: _value("LO", line)} for line in lines])


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" and c != "\\" else " " for c in text)


def _reference(outcome: Outcome) -> Json:
    return {
        _REFERENCED_SOP_CLASS_UID: _value("UI", outcome.sop_class_uid),
        _REFERENCED_SOP_INSTANCE_UID: _value("UI", outcome.sop_instance_uid),
    }


def _value(vr: str, value: object) -> Json:
    return {"vr": vr, "Value": [value]}


def _sequence(items: list[Json]) -> Json:
    return {"vr": "SQ", "Value": items}
