"""Every error that a client may see, raised where it is known and translated once per protocol.

ServerError                      FHIR issue code     HTTP
 +- BadRequest                   invalid             400
 |   +- TooCostly                too-costly          400
 |   +- UnsupportedParameter     not-supported       400
 +- Unauthorized                 login               401
 +- Forbidden                    forbidden           403
 +- NotFound                     not-found           404
 +- MethodNotAllowed             not-supported       405
 +- NotAcceptable                not-supported       406
 +- Conflict                     conflict            409
 +- Gone                         deleted             410
 +- PreconditionFailed           conflict            412
 +- PayloadTooLarge              too-long            413
 +- UnsupportedMediaType         not-supported       415
 +- RangeNotSatisfiable          value               416
 +- Unprocessable                processing          422
 +- PreconditionRequired         required            428
 +- TooManyRequests              throttled           429
 +- Unavailable                  transient           503

FHIR issue codes: https://hl7.org/fhir/R4/valueset-issue-type.html. DICOM statuses: PS3.4 B.2.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class ServerError(Exception):
    """The server could not do what was asked."""

    http_status: ClassVar[int] = 500
    issue_code: ClassVar[str] = "exception"
    dicom_status: ClassVar[int] = 0x0110  # PS3.7 Annex C: processing failure

    def __init__(
        self,
        diagnostics: str | None = None,
        *,
        expression: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.diagnostics = diagnostics or (self.__doc__ or "").strip()
        self.expression = expression
        self.headers = dict(headers or {})
        super().__init__(self.diagnostics)


class BadRequest(ServerError):
    """The request is not well formed."""

    http_status = 400
    issue_code = "invalid"
    dicom_status = 0xC000


class TooCostly(BadRequest):
    """The request would cost too much to answer."""

    issue_code = "too-costly"


class UnsupportedParameter(BadRequest):
    """The request uses a parameter that this server does not support."""

    issue_code = "not-supported"


class Unauthorized(ServerError):
    """A valid access token is required."""

    http_status = 401
    issue_code = "login"
    dicom_status = 0x0124  # PS3.7 Annex C: refused, not authorized


class Forbidden(ServerError):
    """The access token does not permit this."""

    http_status = 403
    issue_code = "forbidden"
    dicom_status = 0x0124


class NotFound(ServerError):
    """There is no such resource."""

    http_status = 404
    issue_code = "not-found"
    dicom_status = 0x0112  # PS3.7 Annex C: no such SOP instance


class MethodNotAllowed(ServerError):
    """This URL does not support that method."""

    http_status = 405
    issue_code = "not-supported"


class NotAcceptable(ServerError):
    """None of the accepted media types can be served."""

    http_status = 406
    issue_code = "not-supported"


class Conflict(ServerError):
    """The request conflicts with what is stored."""

    http_status = 409
    issue_code = "conflict"
    dicom_status = 0x0111  # PS3.7 Annex C: duplicate SOP instance


class Gone(ServerError):
    """The resource was deleted."""

    http_status = 410
    issue_code = "deleted"


class PreconditionFailed(ServerError):
    """The stored version is not the one that the request names."""

    http_status = 412
    issue_code = "conflict"


class PayloadTooLarge(ServerError):
    """The body is larger than this server accepts."""

    http_status = 413
    issue_code = "too-long"
    dicom_status = 0xA700


class UnsupportedMediaType(ServerError):
    """The body's media type is not accepted here."""

    http_status = 415
    issue_code = "not-supported"
    dicom_status = 0x0122


class RangeNotSatisfiable(ServerError):
    """The requested byte range does not exist."""

    http_status = 416
    issue_code = "value"


class Unprocessable(ServerError):
    """The content is well formed and breaks a rule."""

    http_status = 422
    issue_code = "processing"
    dicom_status = 0xC000


class PreconditionRequired(ServerError):
    """The request must say which version it changes."""

    http_status = 428
    issue_code = "required"


class TooManyRequests(ServerError):
    """The limit of requests is reached; try again later."""

    http_status = 429
    issue_code = "throttled"
    dicom_status = 0xA700


class Unavailable(ServerError):
    """A part that this request needs is not available; try again later."""

    http_status = 503
    issue_code = "transient"
    dicom_status = 0xA700
