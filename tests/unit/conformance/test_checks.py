"""The checks of `make conformance` find faults: a server of nonsense meets nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conformance import report, samples
from conformance.__main__ import requirements
from conformance.peer import Peer
from conformance.requirements import Finding, Verdict, look


class Nonsense(BaseHTTPRequestHandler):
    """Answers everything with the status and the body of its server."""

    status = 200
    body = b"{}"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class Empty(Nonsense):
    body = b"[]"


class Broken(Nonsense):
    status = 500


@pytest.fixture(scope="module", params=[Nonsense, Empty, Broken])
def findings(request: pytest.FixtureRequest) -> Iterator[list[Finding]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    peer = Peer(f"http://127.0.0.1:{server.server_port}", samples.make())
    yield list(look(requirements(), peer))
    peer.close()
    server.shutdown()
    thread.join()
    server.server_close()


# What such a server does by chance: an empty list is the right answer to a search for nothing.
BY_CHANCE = {"finds_nothing"}


def test_a_server_of_nonsense_meets_nothing(findings: list[Finding]) -> None:
    met = {f.requirement.name for f in findings if f.verdict is Verdict.MET}

    assert met <= BY_CHANCE


def test_only_what_is_optional_is_not_offered(findings: list[Finding]) -> None:
    for finding in findings:
        if finding.verdict is Verdict.NOT_OFFERED:
            assert finding.requirement.is_optional, finding.requirement.name


def test_the_report_says_each_requirement_with_its_source(findings: list[Finding]) -> None:
    text = report.as_markdown("nonsense", findings)
    rows = report.as_json("nonsense", findings)["findings"]

    assert len(rows) == len(requirements()) > 80
    for row in rows:
        assert row["source"].startswith(("PS3.", "RFC "))
        assert row["text"] in text


def test_no_two_checks_of_a_service_have_one_name() -> None:
    names = [(one.service, one.name) for one in requirements()]

    assert len(set(names)) == len(names)
