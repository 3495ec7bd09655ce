"""What the composition root lends to the AI: pixels of a stored image, and the normal ingest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from uuid import UUID

import numpy as np
from pydicom import Dataset

from ai.pipeline import Pipeline, Ports, SourceImage
from ai.registry import platform_bundles
from ai.runtime import InferenceFailed, InferenceRuntime
from ai.runtime.bundle import Bundle, load_bundle
from interop.dicom import frames, render
from interop.dicom.ingest import Source
from interop.services import Services

# How the ingest and its audit name objects that the AI made.
AI_SOURCE = Source(door="AI", actor="ai-worker")


class AiPorts:
    """The functions that `ai.pipeline.Ports` asks for, over one Services."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def read_image(self, tenant_id: UUID, imaging_object_id: UUID) -> SourceImage:
        """The first frame in displayed polarity. Raises InferenceFailed when it cannot be shown."""
        services = self._services
        with services.database.connection(tenant_id) as connection:
            row = frames.load_row(connection, tenant_id, imaging_object_id)
        if row is None:
            raise InferenceFailed("the image is gone", retryable=False)
        header = Dataset.from_json(json.loads(row.dicom_json), lambda *_: b"")
        for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            if keyword in header:
                delattr(header, keyword)
        pixels = render.display_pixels(services.objects, row, 0)
        if pixels.ndim == 3:
            pixels = pixels.astype(np.float32).mean(axis=-1).astype(pixels.dtype)
        spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
        return SourceImage(
            header=header,
            pixels=pixels,
            modality=str(header.get("Modality", "")),
            pixel_spacing_mm=float(spacing[0]) if spacing else None,
        )

    def store_object(self, tenant_id: UUID, data: bytes) -> None:
        """Send an object of ours through the normal ingest; a repeat changes nothing."""
        services = self._services
        tenant = services.tenants.by_id(tenant_id)
        if tenant is None:
            raise InferenceFailed("the tenant is gone", retryable=False)
        writer = services.spool.writer()
        try:
            writer.write(data)
            spooled = writer.finish()
        except BaseException:
            writer.abort()
            raise
        outcome = services.ingest.store(tenant, spooled, AI_SOURCE)
        if not outcome.is_success:
            raise InferenceFailed(
                f"a result object was not stored: {outcome.failure}",
                retryable=outcome.kind == "failed",
            )

    @lru_cache(maxsize=16)  # noqa: B019 - lives as long as the process
    def bundle(self, model_version_id: UUID) -> Bundle:
        """The verified bundle of a registered version. Raises InferenceFailed."""
        with self._services.database.platform_connection() as connection:
            row = connection.execute(
                "SELECT artifact_digest FROM ai_model_versions WHERE id = %s", (model_version_id,)
            ).fetchone()
        for path in platform_bundles():
            bundle = load_bundle(path)
            if row is not None and bundle.digest == row[0]:
                return bundle
        raise InferenceFailed("the bundle of this model version is not installed", retryable=False)


@contextmanager
def open_pipeline(services: Services) -> Iterator[Pipeline]:
    """The AI pipeline of one worker process, with its inference child."""
    ports = AiPorts(services)
    with InferenceRuntime() as runtime:
        yield Pipeline(
            services.database,
            Ports(ports.read_image, ports.store_object, ports.bundle, runtime),
            services.settings.default_quiet_window_seconds,
        )
