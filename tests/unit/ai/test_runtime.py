"""The inference runtime: right answers, and a whole server after whatever a child process does."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ai.dentition import label_of_fdi
from ai.phantom import panoramic
from ai.runtime import (
    Bundle,
    InferenceFailed,
    InferenceRuntime,
    load_bundle,
    platform_bundle,
)
from ai.runtime.bundle import BUNDLES, write_manifest

PIXELS = panoramic(500_000, 512, 1024).pixels


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return platform_bundle("panoramic")


@pytest.fixture(scope="module")
def shared() -> Iterator[InferenceRuntime]:
    """A runtime for tests that leave its child alive."""
    with InferenceRuntime(timeout_seconds=120, start_timeout_seconds=240) as runtime:
        yield runtime


@pytest.fixture
def runtime() -> Iterator[InferenceRuntime]:
    """A runtime for tests that harm its child."""
    with InferenceRuntime(timeout_seconds=120, start_timeout_seconds=240) as runtime:
        yield runtime


def warm_child(runtime: InferenceRuntime, bundle: Bundle) -> int:
    """Return the process id of a child that is ready."""
    runtime.isolation(bundle)
    pid = runtime.process_id(bundle)
    assert pid is not None
    return pid


@pytest.mark.parametrize("seed", [500_001, 500_002, 500_003])
def test_held_out_phantoms_get_numbered_teeth_in_source_geometry(
    shared: InferenceRuntime, bundle: Bundle, seed: int
) -> None:
    phantom = panoramic(seed, 700, 1500)

    result = shared.run(bundle, phantom.pixels, {"modality": "PX", "pixel_spacing_mm": 0.13})

    assert result.label_mask.shape == phantom.pixels.shape
    dice = []
    for truth in phantom.teeth:
        label = label_of_fdi(truth.fdi)
        true, found = phantom.label_mask == label, result.label_mask == label
        dice.append(2 * (true & found).sum() / (true.sum() + found.sum()))
    assert np.mean(dice) > 0.80
    expected = {truth.fdi for truth in phantom.teeth}
    numbers = [tooth.fdi for tooth in result.teeth]
    assert len(set(numbers)) == len(numbers)
    assert len(expected & set(numbers)) >= 0.85 * len(expected)
    levels = {t.fdi: t.bone_level_percent for t in result.teeth if t.bone_level_percent is not None}
    errors = [
        abs(levels[t.fdi] - t.bone_level_percent)
        for t in phantom.teeth
        if t.bone_level_percent is not None and t.fdi in levels
    ]
    assert np.median(errors) < 8


def test_the_same_picture_gets_the_same_answer(shared: InferenceRuntime, bundle: Bundle) -> None:
    first, again = shared.run(bundle, PIXELS), shared.run(bundle, PIXELS)

    assert first.teeth == again.teeth
    assert first.findings == again.findings
    assert np.array_equal(first.label_mask, again.label_mask)
    assert set(first.timing) == {"network_seconds", "postprocess_seconds", "total_seconds"}


def test_eight_and_sixteen_bits_and_both_byte_orders_are_read(
    shared: InferenceRuntime, bundle: Bundle
) -> None:
    sixteen = shared.run(bundle, PIXELS)
    swapped = shared.run(bundle, PIXELS.astype(">u2"))
    eight = shared.run(bundle, (PIXELS >> 4).astype(np.uint8))

    assert swapped.teeth == sixteen.teeth
    assert len({t.fdi for t in eight.teeth} ^ {t.fdi for t in sixteen.teeth}) <= 2


def test_the_child_has_no_rights_and_no_secrets(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, runtime: InferenceRuntime
) -> None:
    monkeypatch.setenv("INTEROP_DATABASE_URL", "postgresql://canary-secret")

    isolation = runtime.isolation(bundle)
    environment = Path(f"/proc/{runtime.process_id(bundle)}/environ").read_bytes()

    assert isolation["user"] != 0
    assert isolation["system_call_filter"]
    tasks = list(Path(f"/proc/{runtime.process_id(bundle)}/task").iterdir())
    assert tasks
    for task in tasks:
        # Libraries start threads of their own; each must be confined.
        status = dict(
            line.split(":\t", 1)
            for line in (task / "status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Seccomp"] == "2"
        assert status["NoNewPrivs"] == "1"
        assert "0" not in status["Uid"].split()
    assert b"canary-secret" not in environment
    assert b"INTEROP" not in environment


def test_a_child_killed_in_the_middle_fails_one_run_and_no_other(
    runtime: InferenceRuntime, bundle: Bundle
) -> None:
    pid = warm_child(runtime, bundle)
    # Stopped, it holds the request for certain when it is killed.
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()

    with pytest.raises(InferenceFailed, match="signal 9") as failure:
        runtime.run(bundle, PIXELS)

    assert failure.value.retryable
    assert runtime.run(bundle, PIXELS).teeth
    assert runtime.process_id(bundle) != pid


def test_a_segmentation_fault_of_the_model_library_is_survived(
    runtime: InferenceRuntime, bundle: Bundle
) -> None:
    pid = warm_child(runtime, bundle)
    os.kill(pid, signal.SIGSTOP)

    def crash() -> None:
        # Exit 139 in a shell's words. Some kernels wake a stopped process for it, some do not.
        os.kill(pid, signal.SIGSEGV)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    threading.Timer(0.3, crash).start()

    with pytest.raises(InferenceFailed, match="signal 11") as failure:
        runtime.run(bundle, PIXELS)

    assert failure.value.retryable
    assert runtime.run(bundle, PIXELS).teeth


def test_a_child_that_hangs_is_killed_at_the_deadline(bundle: Bundle) -> None:
    with InferenceRuntime(timeout_seconds=1.0, start_timeout_seconds=240) as runtime:
        pid = warm_child(runtime, bundle)
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()

        with pytest.raises(InferenceFailed, match="too long") as failure:
            runtime.run(bundle, PIXELS)

        assert failure.value.retryable
        assert 0.9 < time.monotonic() - started < 10
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_child_that_died_between_runs_is_replaced_without_a_failure(
    runtime: InferenceRuntime, bundle: Bundle
) -> None:
    pid = warm_child(runtime, bundle)
    os.kill(pid, signal.SIGKILL)
    for _ in range(100):
        if runtime.process_id(bundle) is None or not Path(f"/proc/{pid}/fd").exists():
            break
        time.sleep(0.05)

    assert runtime.run(bundle, PIXELS).teeth


def test_a_picture_that_needs_more_memory_than_allowed_fails_alone(bundle: Bundle) -> None:
    with InferenceRuntime(
        timeout_seconds=120, start_timeout_seconds=240, memory_limit_bytes=600 << 20
    ) as runtime:
        huge = np.full((7800, 8000), 1000, np.uint16)
        huge[::2] = 3000

        with pytest.raises(InferenceFailed) as failure:
            runtime.run(bundle, huge)

        assert failure.value.retryable
        assert runtime.run(bundle, PIXELS).teeth


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((512, 1024), np.nan, np.float32), "uint8 or uint16 is accepted"),
        (np.zeros((512, 1024), np.int16), "uint8 or uint16 is accepted"),
        (np.zeros((512, 1024, 3), np.uint8), "not 3 dimensions"),
        (np.zeros((3, 1024), np.uint8), "at least 64 a side"),
        (np.broadcast_to(np.uint8(0), (100_000, 100_000)), "at most 64000000"),
    ],
)
def test_killer_input_is_refused_for_good_before_a_child_sees_it(
    shared: InferenceRuntime, bundle: Bundle, pixels: np.ndarray, message: str
) -> None:
    with pytest.raises(InferenceFailed, match=message) as failure:
        shared.run(bundle, pixels)

    assert not failure.value.retryable


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((64, 64), np.uint8), np.full((300, 900), 65535, np.uint16)],
    ids=["black", "white"],
)
def test_pictures_of_nothing_get_no_findings(
    shared: InferenceRuntime, bundle: Bundle, pixels: np.ndarray
) -> None:
    result = shared.run(bundle, pixels)

    assert result.teeth == ()
    assert result.findings == ()
    assert not result.label_mask.any()


def test_noise_gets_an_answer_within_the_rules(shared: InferenceRuntime, bundle: Bundle) -> None:
    random = np.random.default_rng(0)

    result = shared.run(bundle, random.integers(0, 65535, (200, 2000), dtype=np.uint16))

    numbers = {tooth.fdi for tooth in result.teeth}
    assert len(numbers) == len(result.teeth)
    assert {finding.fdi for finding in result.findings} <= numbers


def test_a_bundle_refuses_a_modality_it_was_not_made_for(
    shared: InferenceRuntime, bundle: Bundle
) -> None:
    with pytest.raises(InferenceFailed, match="not CT") as failure:
        shared.run(bundle, PIXELS, {"modality": "CT"})

    assert not failure.value.retryable


def test_a_model_file_changed_after_verification_is_not_loaded(
    tmp_path: Path, runtime: InferenceRuntime
) -> None:
    path = Path(shutil.copytree(BUNDLES / "panoramic", tmp_path / "panoramic"))
    write_manifest([path], tmp_path / "manifest.json")
    changed = load_bundle(path, manifest=tmp_path / "manifest.json")
    with changed.model_path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"x")

    with pytest.raises(InferenceFailed, match="changed since it was verified") as failure:
        runtime.run(changed, PIXELS)

    assert not failure.value.retryable


def test_the_parent_needs_none_of_the_ai_extra(bundle: Bundle) -> None:
    """The server starts without the extra and says what is missing when inference is asked for."""
    program = """
        import sys
        for name in ("torch", "monai", "onnxruntime", "scipy"):
            sys.modules[name] = None
        import numpy as np
        from ai.runtime import InferenceRuntime, RuntimeUnavailable, platform_bundle
        bundle = platform_bundle("panoramic")
        try:
            InferenceRuntime().run(bundle, np.zeros((512, 1024), np.uint8), {})
        except RuntimeUnavailable as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(BUNDLES.parent.parent)},
    )

    assert "onnxruntime, scipy missing" in done.stdout
    assert "dental-interop[ai]" in done.stdout
