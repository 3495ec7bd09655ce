"""What the runtime is made of: confinement, the pipe protocol, the check of a model's output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from typing import Any

import numpy as np
import pytest

from ai.runtime import InferenceFailed, wire
from ai.runtime.bundle import BUNDLES
from ai.runtime.results import MAX_FINDINGS, result_from_json

MASK = np.zeros((100, 200), np.uint8)
SQUARE = [[1, 1], [9, 1], [9, 9], [1, 9]]


def tooth(**changes: Any) -> dict[str, Any]:
    return {"fdi": 36, "polygon": SQUARE, "score": 0.9, "bone_level_percent": 12.0, **changes}


def finding(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "caries", "fdi": 36, "surface": "M", "polygon": SQUARE, "score": 0.8,
        "value": None, "unit": None, **changes,
    }  # fmt: skip


def test_a_sound_result_is_taken_as_it_is() -> None:
    line = [[1, 2], [3, 4]]
    document = {
        "teeth": [tooth()],
        "findings": [
            finding(),
            finding(kind="bone_loss", surface=None, polygon=line, value=41.5, unit="%"),
        ],
        "timing": {"network_seconds": 0.2},
    }

    result = result_from_json(document, MASK)

    assert result.teeth[0].fdi == 36
    assert result.teeth[0].label == 22
    assert [f.kind for f in result.findings] == ["caries", "bone_loss"]
    assert result.findings[1].value == 41.5
    assert result.findings[1].polygon == ((1.0, 2.0), (3.0, 4.0))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"teeth": [tooth(score=float("nan"))], "findings": []}, "not a finite number"),
        ({"teeth": [tooth(score=1.5)], "findings": []}, "outside 0..1"),
        ({"teeth": [tooth(score=True)], "findings": []}, "not a finite number"),
        ({"teeth": [tooth(fdi=19)], "findings": []}, "no FDI number"),
        ({"teeth": [tooth(fdi="36")], "findings": []}, "no FDI number"),
        ({"teeth": [tooth(), tooth()], "findings": []}, "given twice"),
        ({"teeth": [tooth()] * 33, "findings": []}, "at most 32"),
        ({"teeth": [tooth(polygon=[[1, 1], [2, 2]])], "findings": []}, "3 to 400 points"),
        ({"teeth": [tooth(polygon=[[1, 1], [2, 2], [201, 3]])], "findings": []}, "outside 0..200"),
        ({"teeth": [tooth(polygon=[[1, 1], [2, 2], [3]])], "findings": []}, "not enough values"),
        ({"teeth": [tooth(bone_level_percent=float("inf"))], "findings": []}, "not a finite"),
        ({"teeth": [tooth()], "findings": [finding()] * (MAX_FINDINGS + 1)}, "at most 200"),
        ({"teeth": [tooth()], "findings": [finding(kind="<script>")]}, "not one of caries"),
        ({"teeth": [tooth()], "findings": [finding(surface="<b>")]}, "not one of M, D, O"),
        ({"teeth": [tooth()], "findings": [finding(unit="<b>")]}, "is not '%'"),
        ({"teeth": [tooth()], "findings": [finding(fdi=11)]}, "not among the teeth"),
        ({"teeth": {}, "findings": []}, "a list is needed"),
        ({"findings": []}, "teeth"),
    ],
)
def test_f5_output_that_is_no_finding_is_refused_for_good(
    document: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InferenceFailed, match="refused") as failure:
        result_from_json(document, MASK)

    assert reason in failure.value.reason
    assert not failure.value.retryable


def test_f5_a_label_mask_with_unknown_labels_is_refused() -> None:
    with pytest.raises(InferenceFailed, match="above 32"):
        result_from_json({"teeth": [], "findings": []}, np.full((4, 4), 33, np.uint8))


def test_a_confined_process_cannot_reach_out() -> None:
    """F4: no network, no new process, no file to write; reading what it has goes on."""
    program = """
        import json, os, socket, subprocess, sys
        from ai.runtime.confinement import confine, leave_network
        kept = os.dup(1)
        isolation = confine(2 << 30, 60, network_namespace=leave_network())
        def outcome(action):
            try:
                action()
                return "allowed"
            except OSError as error:
                return type(error).__name__
        answers = {
            "socket": outcome(lambda: socket.socket()),
            "fork": outcome(os.fork),
            "run": outcome(lambda: subprocess.run(["true"])),
            "write": outcome(lambda: open("/tmp/confined", "w")),
            "remove": outcome(lambda: os.unlink("/etc/hostname")),
            "kill": outcome(lambda: os.kill(os.getppid(), 0)),
            "read": outcome(lambda: open("/proc/self/status").close()),
            "user": os.geteuid(),
            "isolation": isolation.as_dict(),
        }
        os.write(kept, json.dumps(answers).encode())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(BUNDLES.parent.parent)},
    )
    answers = json.loads(done.stdout)

    assert answers["isolation"]["system_call_filter"]
    assert answers.pop("read") == "allowed"
    assert answers.pop("user") != 0
    refused = {key: value for key, value in answers.items() if key != "isolation"}
    assert set(refused.values()) == {"PermissionError"}, refused


def test_frames_cross_the_pipe_whole() -> None:
    reader, writer = os.pipe()
    try:
        wire.send(writer, {"shape": [2, 3]}, b"abcdef")
        assert wire.receive(reader, time.monotonic() + 5) == (
            {"shape": [2, 3]},
            bytearray(b"abcdef"),
        )
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("bytes_sent", "error"),
    [
        (b"\xff\xff\xff\xff\x00\x00\x00\x00", wire.WireInvalid),
        (b"\x02\x00\x00\x00\xff\xff\xff\xff{}", wire.WireInvalid),
        (b"\x03\x00\x00\x00\x00\x00\x00\x00{x}", wire.WireInvalid),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00[]", wire.WireInvalid),
        (b"\x02\x00\x00\x00\x04\x00\x00\x00{}ab", wire.WireClosed),
        (b"", wire.WireClosed),
    ],
)
def test_what_is_no_frame_is_named(bytes_sent: bytes, error: type[Exception]) -> None:
    reader, writer = os.pipe()
    os.write(writer, bytes_sent)
    os.close(writer)
    try:
        with pytest.raises(error):
            wire.receive(reader, time.monotonic() + 5, max_block=1 << 20)
    finally:
        os.close(reader)


def test_silence_ends_at_the_deadline() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(wire.WireTimeout):
            wire.receive(reader, time.monotonic() + 0.1)
        with pytest.raises(wire.WireTimeout):
            # Nobody reads: the pipe fills up.
            os.set_blocking(writer, False)
            wire.send(writer, {}, bytes(1 << 20), time.monotonic() + 0.1)
    finally:
        os.close(reader)
        os.close(writer)
