"""The trained network as an ONNX session: one thread, no telemetry, nothing unpickled."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ai.runtime import preprocess
from ai.runtime.channels import INPUT_HEIGHT, INPUT_WIDTH, OUTPUT_CHANNELS


class Network:
    """A loaded model. Not thread-safe; one process runs one inference at a time."""

    def __init__(self, model: bytes) -> None:
        """Load the model; raise ValueError when its output could not be the panoramic one."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # The arena keeps what the largest run needed; without it memory is given back.
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        expected = [1, OUTPUT_CHANNELS, INPUT_HEIGHT, INPUT_WIDTH]
        shape = self._session.get_outputs()[0].shape
        if list(shape) != expected:
            raise ValueError(f"the model's output is {shape}, {expected} is needed")

    def logits(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Return the 40 x 256 x 512 logits of a picture of any size."""
        output = self._session.run(None, {"image": preprocess.network_input(pixels)})[0]
        result: NDArray[np.float32] = output[0]
        return result
