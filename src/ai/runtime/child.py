"""The inference process: `python -m ai.runtime.child MODEL METADATA SHA256 MEMORY CPU_SECONDS`.

It loads the model, gives up all rights, and then answers pictures on stdin with teeth and
findings on stdout until stdin closes. It holds no secret and knows no tenant, patient or study.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ai.runtime import confinement, wire

if TYPE_CHECKING:
    from ai.runtime.network import Network
    from ai.runtime.postprocess import Reporting


def main(arguments: list[str]) -> int:
    """Serve until the parent closes the pipe."""
    has_namespace = confinement.leave_network()
    # Imported only now: these libraries start threads, which would stay in the old namespace.
    from ai.runtime.network import Network
    from ai.runtime.postprocess import Reporting

    model_path, metadata_path, sha256, memory, cpu_seconds = arguments
    # The protocol keeps the real stdout; a library that prints must not break a frame.
    answers = os.dup(1)
    os.dup2(2, 1)
    model = Path(model_path).read_bytes()
    if hashlib.sha256(model).hexdigest() != sha256:
        wire.send(answers, {"error": "the model file was changed since it was verified"}, b"")
        return 1
    reporting = Reporting.from_metadata(json.loads(Path(metadata_path).read_bytes()))
    network = Network(model)
    # The first run allocates and imports lazily; afterwards nothing may open files any more.
    _infer(network, np.zeros((64, 128), np.uint8), reporting)
    isolation = confinement.confine(int(memory), int(cpu_seconds), network_namespace=has_namespace)
    wire.send(answers, {"ready": True, "isolation": isolation.as_dict()}, b"")
    while True:
        try:
            request, block = wire.receive(0)
        except wire.WireClosed:
            return 0
        confinement.limit_next_run(float(request["cpu_seconds"]))
        head, answer = _answer(network, request, block, reporting)
        wire.send(answers, head, answer)


def _answer(
    network: Network, request: dict[str, Any], block: bytearray, reporting: Reporting
) -> tuple[dict[str, Any], bytes]:
    try:
        pixels = np.frombuffer(block, dtype=request["dtype"]).reshape(request["shape"])
        document, mask = _infer(network, pixels, reporting)
        return {"result": document}, mask.tobytes()
    except MemoryError:
        return {"error": "out of memory", "retryable": True}, b""
    except Exception as error:
        # ONNX Runtime reports a failed allocation as a RuntimeError of its own.
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"[:300]
        return {"error": message, "retryable": "alloc" in message.lower()}, b""


def _infer(
    network: Network, pixels: np.ndarray[Any, Any], reporting: Reporting
) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.uint8]]]:
    from ai.runtime.postprocess import postprocess

    started = time.perf_counter()
    logits = network.logits(pixels)
    inferred = time.perf_counter()
    document, mask = postprocess(logits, pixels.shape[0], pixels.shape[1], reporting)
    document["timing"] = {
        "network_seconds": round(inferred - started, 4),
        "postprocess_seconds": round(time.perf_counter() - inferred, 4),
    }
    return document, mask


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
