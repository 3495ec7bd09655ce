"""The HTTP application: FHIR, DICOMweb, token endpoint and health, composed over one Services.

`create` is the factory that the HTTP workers call; it reads the settings of its process.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import to_thread
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from interop.access import acting, emergency
from interop.access.cross_origin import CrossOrigin
from interop.access.gate import Gate
from interop.access.limits import RateLimiter
from interop.administration import application as administration
from interop.administration import documentation
from interop.dicom.decode_pool import shared_pool
from interop.dicom.picture_keeper import PictureKeeper
from interop.dicomweb import router as dicomweb
from interop.fhir import router as fhir
from interop.identity import router as identity
from interop.logs import configure_logging
from interop.services import Services, open_services
from interop.settings import Settings
from interop.smart import discovery, oauth2
from interop.smart.origins import AppOrigins
from interop.viewer import router as viewer
from interop.viewer.package import ViewerFolder
from storage.rate_limits import open_buckets

logger = logging.getLogger(__name__)


def create() -> Starlette:
    """The application of this process, from the environment."""
    settings = Settings()
    configure_logging(settings.log_level)
    return application(settings)


def application(
    settings: Settings, build: Callable[[Settings], Services] = open_services
) -> Starlette:
    """The application over `settings`; services open at start-up and close at shutdown."""

    api = administration.application()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        services = build(settings)
        # The first rendered image does not wait for a decoder's imports.
        shared_pool().warm()
        await services.database.open_async()
        app.state.services = services
        buckets = open_buckets(services.database, settings.redis_url)
        app.state.limiter = RateLimiter(services.database, services.limits, buckets)
        app.state.origins = AppOrigins(services.database, settings.browser_origins)
        app.state.viewer = ViewerFolder(settings.effective_viewer_dir)
        app.state.administration = api
        api.state.services = services
        pictures = PictureKeeper(services)
        try:
            yield
        finally:
            await to_thread.run_sync(pictures.close)
            await app.state.limiter.close()
            await services.database.close_async()
            services.close()

    return Starlette(
        routes=[
            # One pattern, and the shortest answers: before FHIR's many.
            *dicomweb.routes(),
            # Its address would be read as one of a resource.
            *discovery.fhir_routes(),
            *fhir.routes(),
            *oauth2.routes(),
            *emergency.routes(),
            *identity.routes(),
            *acting.routes(),
            *viewer.routes(),
            Route("/docs", documentation.page),
            Mount("/api/v1", api),
            Route("/", index),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ],
        # What the gate refuses, a browser app must be able to read.
        middleware=[Middleware(CrossOrigin), Middleware(Gate)],
        lifespan=lifespan,
    )


async def index(request: Request) -> Response:
    """What this server is and where its doors are, for a person with a browser or curl."""
    base = request.app.state.services.settings.effective_public_url
    return JSONResponse(
        {
            "software": "dental-interop",
            "fhir": f"{base}/t/{{tenant}}/fhir/R4/metadata",
            "dicomweb": f"{base}/t/{{tenant}}/dicom-web/studies",
            "token": f"{base}/t/{{tenant}}/oauth2/token",
            "administration": f"{base}/docs",
            "viewer": f"{base}/viewer",
            "health": f"{base}/readyz",
        }
    )


async def livez(request: Request) -> Response:
    """The process answers."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """The database answers too. Details are for the logs, not for whoever asks."""
    services: Services = request.app.state.services
    try:
        async with services.database.async_platform_connection() as connection:
            await connection.execute("SELECT 1")
    except Exception:
        logger.exception("not_ready")
        return PlainTextResponse("not ready\n", status_code=503)
    return PlainTextResponse("ready\n")


async def metrics(request: Request) -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
