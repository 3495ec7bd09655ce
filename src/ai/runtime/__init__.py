"""Inference in a confined child process. Importing this needs neither torch, MONAI nor ONNX."""

from __future__ import annotations

from ai.runtime.bundle import Bundle, BundleRefused, load_bundle, platform_bundle
from ai.runtime.process import InferenceRuntime, RuntimeUnavailable
from ai.runtime.results import Finding, InferenceFailed, InferenceResult, Tooth

__all__ = [
    "Bundle",
    "BundleRefused",
    "Finding",
    "InferenceFailed",
    "InferenceResult",
    "InferenceRuntime",
    "RuntimeUnavailable",
    "Tooth",
    "load_bundle",
    "platform_bundle",
]
