"""Runs models in confined child processes and survives whatever happens to them.

The parent imports neither torch, MONAI nor ONNX Runtime. A child keeps its model warm between
runs; it is killed when it is late and replaced when it is gone.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ai.runtime import wire
from ai.runtime.bundle import Bundle
from ai.runtime.results import InferenceFailed, InferenceResult, result_from_json

logger = logging.getLogger(__name__)

NEEDED_IN_CHILD = ("onnxruntime", "scipy")
MIN_SIDE, MAX_PIXELS = 64, 64_000_000
# A child is replaced after this many runs: bounds leaks of the libraries in it.
MAX_RUNS = 500


class RuntimeUnavailable(Exception):
    """Inference needs the `ai` extra: pip install 'dental-interop[ai]'."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(
            f"Inference is not installed: {', '.join(missing)} missing. "
            "Install the extra: pip install 'dental-interop[ai]'."
        )


class InferenceRuntime:
    """Runs bundles, one child process per bundle, at most `max_children` warm. Thread-safe."""

    def __init__(
        self,
        *,
        timeout_seconds: float = 60.0,
        start_timeout_seconds: float = 60.0,
        memory_limit_bytes: int = 3 << 30,
        max_children: int = 2,
    ) -> None:
        self._timeout = timeout_seconds
        self._start_timeout = start_timeout_seconds
        self._memory = memory_limit_bytes
        self._max_children = max_children
        self._children: dict[str, _Child] = {}
        self._lock = threading.Lock()

    def run(
        self, bundle: Bundle, pixels: NDArray[Any], context: Mapping[str, Any] | None = None
    ) -> InferenceResult:
        """Return teeth and findings of a picture (dense tissue bright, uint8 or uint16, 2D).

        Raises InferenceFailed; after a retryable failure the next run starts a new child.
        `context` (modality, pixel_spacing_mm) is checked against what the bundle was made for.
        """
        _check_installed()
        _check_pixels(pixels)
        _check_context(bundle, context or {})
        with self._lock:
            child = self._child(bundle)
            try:
                return child.run(pixels, self._timeout)
            except InferenceFailed:
                if not child.is_alive():
                    self._children.pop(bundle.digest, None)
                raise

    def isolation(self, bundle: Bundle) -> dict[str, Any]:
        """Return what the child of this bundle is confined by, starting it when needed."""
        _check_installed()
        with self._lock:
            return dict(self._child(bundle).isolation)

    def process_id(self, bundle: Bundle) -> int | None:
        """Return the process id of the warm child of this bundle."""
        child = self._children.get(bundle.digest)
        return None if child is None else child.pid

    def close(self) -> None:
        """End all children."""
        with self._lock:
            for child in self._children.values():
                child.close()
            self._children.clear()

    def __enter__(self) -> InferenceRuntime:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _child(self, bundle: Bundle) -> _Child:
        child = self._children.pop(bundle.digest, None)
        if child is not None and (child.runs >= MAX_RUNS or not child.is_alive()):
            child.close()
            child = None
        if child is None:
            while len(self._children) >= self._max_children:
                self._children.pop(next(iter(self._children))).close()
            child = _Child(bundle, self._memory, self._timeout, self._start_timeout)
        # Last in the dictionary is the most recently used.
        self._children[bundle.digest] = child
        return child


class _Child:
    """One inference process."""

    def __init__(
        self, bundle: Bundle, memory: int, run_timeout: float, start_timeout: float
    ) -> None:
        self.runs = 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        command = [
            sys.executable, "-P", "-m", "ai.runtime.child",
            str(bundle.model_path.resolve()),
            str((bundle.path / "configs" / "metadata.json").resolve()),
            bundle.model_sha256,
            str(memory),
            str(int(run_timeout * MAX_RUNS) + 60),
        ]  # fmt: skip
        self._process = subprocess.Popen(  # noqa: S603  our own module, fixed arguments
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._answers = self._process.stdout.fileno()
        for descriptor in (self._requests, self._answers):
            # A blocking write of more than the pipe holds would wait past every deadline.
            os.set_blocking(descriptor, False)
        hello, _ = self._exchange(None, b"", time.monotonic() + start_timeout)
        if not hello.get("ready"):
            self.close()
            reason = str(hello.get("error"))[:300]
            raise InferenceFailed(f"The inference process did not start: {reason}", retryable=False)
        self.isolation: dict[str, Any] = dict(hello["isolation"])
        logger.info("inference_child_started", extra={"bundle": bundle.name, **self.isolation})

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def run(self, pixels: NDArray[Any], timeout: float) -> InferenceResult:
        self.runs += 1
        started = time.monotonic()
        request = {
            "shape": list(pixels.shape),
            "dtype": pixels.dtype.newbyteorder("=").str,
            # Wall time is the real limit; the CPU limit ends a child whose parent is gone.
            "cpu_seconds": timeout * 2,
        }
        block = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")).tobytes()
        head, answer = self._exchange(request, block, started + timeout, pixels.size)
        if "error" in head:
            raise InferenceFailed(
                f"The model failed: {str(head['error'])[:300]}",
                retryable=bool(head.get("retryable", False)),
            )
        if len(answer) != pixels.size or not isinstance(head.get("result"), dict):
            raise InferenceFailed(
                "The model's output was refused: the label mask is not of the picture's size",
                retryable=False,
            )
        mask = np.frombuffer(answer, np.uint8).reshape(pixels.shape)
        result = result_from_json(head["result"], mask)
        result.timing["total_seconds"] = round(time.monotonic() - started, 4)
        return result

    def close(self) -> None:
        """End the process now; nothing of value is in it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _exchange(
        self,
        head: dict[str, Any] | None,
        block: bytes | memoryview,
        deadline: float,
        max_answer: int = 0,
    ) -> tuple[dict[str, Any], bytearray]:
        try:
            if head is not None:
                wire.send(self._requests, head, block, deadline)
            return wire.receive(self._answers, deadline, max_block=max_answer)
        except wire.WireTimeout as error:
            self.close()
            raise InferenceFailed(
                "The inference took too long and was stopped.", retryable=True
            ) from error
        except wire.WireInvalid as error:
            self.close()
            raise InferenceFailed(
                f"The model's output was refused: {error}", retryable=False
            ) from error
        except wire.WireClosed as error:
            reason = self._last_words()
            self.close()
            raise InferenceFailed(f"The inference process {reason}", retryable=True) from error

    def _last_words(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its output."
        size = self._errors.seek(0, 2)
        self._errors.seek(max(0, size - 2000))
        text = self._errors.read().decode(errors="replace").strip()
        # The child sees pixels only, so its messages hold nothing about a patient.
        logger.warning("inference_child_died", extra={"exit_code": code, "stderr": text[-500:]})
        return f"ended with signal {-code}." if code < 0 else f"ended with exit code {code}."


def _environment() -> dict[str, str]:
    """Return the child's whole environment: no setting, secret or proxy of the server is in it."""
    package_root = Path(__file__).resolve().parents[2]
    return {
        "PYTHONPATH": str(package_root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }


def _check_installed() -> None:
    missing = [name for name in NEEDED_IN_CHILD if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeUnavailable(missing)


def _check_pixels(pixels: NDArray[Any]) -> None:
    if pixels.ndim != 2 or pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        raise InferenceFailed(
            f"A two-dimensional picture of uint8 or uint16 is accepted, "
            f"not {pixels.ndim} dimensions of {pixels.dtype}",
            retryable=False,
        )
    if min(pixels.shape) < MIN_SIDE or pixels.size > MAX_PIXELS:
        raise InferenceFailed(
            f"A picture of {pixels.shape[0]} x {pixels.shape[1]} pixels is not accepted: at least "
            f"{MIN_SIDE} a side, at most {MAX_PIXELS} in all",
            retryable=False,
        )


def _check_context(bundle: Bundle, context: Mapping[str, Any]) -> None:
    modality = context.get("modality")
    accepted = bundle.metadata["network_data_format"]["inputs"]["image"]["modality_codes"]
    if modality is not None and modality not in accepted:
        raise InferenceFailed(
            f"{bundle.name} reads modality {', '.join(accepted)}, not {modality}", retryable=False
        )
