"""The server under test, by HTTP and by DIMSE, as a client would speak to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
from pynetdicom import AE
from pynetdicom.presentation import build_context

from conformance.requirements import NotMet, NotOffered, expect
from conformance.samples import Samples

JSON, XML, DICOM = "application/dicom+json", "application/dicom+xml", "application/dicom"
# What servers answer where they do not have a resource, a method, a media type or a parameter.
ABSENT = (400, 404, 405, 406, 415, 501)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart message."""

    headers: dict[str, str]
    content: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class DicomAddress:
    """Where the server listens for associations, and as whom we call."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    # An AE that the server can send to: our own listener at `move_port`, under this title.
    move_port: int | None = None


class Peer:
    """One server, and the objects of this run."""

    def __init__(
        self,
        dicom_web: str,
        samples: Samples,
        *,
        token: str | None = None,
        dicom: DicomAddress | None = None,
    ) -> None:
        self.root = dicom_web.rstrip("/")
        self.samples = samples
        self._dicom = dicom
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(headers=headers, timeout=60)

    def close(self) -> None:
        self.http.close()

    # -- HTTP --------------------------------------------------------------------------------

    def get(self, path: str, accept: str | None = None, **parameters: Any) -> httpx.Response:
        headers = {"Accept": accept} if accept else {}
        url = path if path.startswith("http") else self.root + path
        if parameters:
            # What a query may hold as it is stays so: some servers do not decode an encoded *.
            query = (f"{k}={quote(str(v), safe='*?,-:.')}" for k, v in parameters.items())
            url = f"{url}?{'&'.join(query)}"
        return self.http.get(url, headers=headers)

    def search(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """The results of a search; a search without any is an empty list (PS3.18 10.6.3)."""
        response = self.get(path, JSON, **parameters)
        if response.status_code == 204:
            return []
        expect(response.status_code == 200, f"{response.status_code} {response.text[:200]}")
        found = response.json()
        expect(isinstance(found, list), "the results are not a JSON array")
        return list(found)

    def offered(self, response: httpx.Response, what: str) -> httpx.Response:
        """The response, unless it says that the server does not do this."""
        if response.status_code in ABSENT:
            raise NotOffered(f"{what}: {response.status_code}")
        return response

    def store(
        self, parts: list[tuple[str, bytes]], *, study: str = "", kind: str = DICOM, **headers: str
    ) -> httpx.Response:
        """A STOW-RS request of parts with their headers' lines (PS3.18 10.5, RFC 2387)."""
        boundary = uuid4().hex
        body = b"".join(
            f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
            for head, content in parts
        )
        return self.http.post(
            f"{self.root}/studies{study and '/' + study}",
            content=body + f"--{boundary}--\r\n".encode(),
            headers={
                "Content-Type": f'multipart/related; type="{kind}"; boundary={boundary}',
                "Accept": JSON,
                **headers,
            },
        )

    def store_objects(self, *encoded: bytes, study: str = "", **headers: str) -> httpx.Response:
        return self.store(
            [(f"Content-Type: {DICOM}", one) for one in encoded], study=study, **headers
        )

    # -- DIMSE -------------------------------------------------------------------------------

    @property
    def dicom(self) -> DicomAddress:
        if self._dicom is None:
            raise NotOffered("no --dicom address was given")
        return self._dicom

    @contextmanager
    def association(self, *contexts: Any, **options: Any) -> Iterator[Any]:
        """An association for SOP classes, or for contexts made by build_context."""
        address = self.dicom
        entity = AE(address.calling_ae_title)
        made = [c if hasattr(c, "transfer_syntax") else build_context(c) for c in contexts]
        association = entity.associate(
            address.host, address.port, made, address.called_ae_title, **options
        )
        if not association.is_established:
            raise NotMet("no association: " + ("rejected" if association.is_rejected else "lost"))
        try:
            if not association.accepted_contexts:
                raise NotOffered("no presentation context was accepted")
            yield association
        finally:
            association.release()


def parts_of(response: httpx.Response) -> list[Part]:
    """The parts of a multipart/related body (RFC 2046 5.1)."""
    kind = response.headers.get("content-type", "")
    boundary = re.search(r'boundary="?([^";,]+)"?', kind)
    expect(kind.startswith("multipart/related") and boundary, f"Content-Type is {kind!r}")
    assert boundary is not None
    pieces = (b"\r\n" + response.content).split(b"\r\n--" + boundary[1].encode())
    expect(pieces[-1].startswith(b"--"), "the closing boundary is missing")
    found = []
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").strip().split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        found.append(Part(headers, content))
    return found


def value(result: dict[str, Any], tag: str) -> Any:
    """The first value of an attribute in DICOM JSON (PS3.18 F.2); None where it is empty."""
    values = result.get(tag, {}).get("Value") or [None]
    return values[0]
