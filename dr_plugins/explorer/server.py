"""The web application: the page, its data and its pictures, under a secret path.

All addresses begin with a random token, so no other page can name one, and nothing is sent along by
itself that a foreign page could use, as a cookie would be. The Host header is checked, so a foreign
name that resolves to this machine is refused (DNS rebinding). The page may load nothing from
elsewhere.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dr_plugins.errors import ReinforcementError, UnknownImageError
from dr_plugins.explorer.catalog import Catalog
from dr_plugins.explorer.encoding import ORIGINAL, THUMBNAIL, encoded_image, encoded_view
from dr_plugins.explorer.selection import Query
from dr_plugins.pictures import StoredPictures

STATIC = Path(__file__).with_name("static")
HOSTS = ["127.0.0.1", "localhost"]

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# The pixels at an address never change while its token is valid.
_PICTURE_HEADERS = {"Cache-Control": "private, max-age=86400, immutable"}


def build_app(catalog: Catalog, pictures: StoredPictures | None, token: str) -> Starlette:
    """Return the application, which answers below ``/TOKEN/`` only.

    Args:
        catalog: The shard set's data.
        pictures: Its images; None shows the data alone.
        token: Secret part of every address.
    """

    def overview(_: Request) -> Response:
        return JSONResponse({**catalog.overview, "has_pictures": pictures is not None})

    def page(request: Request) -> Response:
        try:
            query = Query.parse(request.query_params)
        except ValueError as error:
            return PlainTextResponse(str(error), 400)
        return JSONResponse(catalog.page(query))

    # Requests are answered by many threads, and datasets are made for one.
    reading = threading.Lock()

    def image(request: Request) -> Response:
        row = _number(request, "row", len(catalog.shards))
        with reading:
            return JSONResponse(catalog.image(row))

    routes = [
        Route("/api/set", overview),
        Route("/api/images", page),
        Route("/api/images/{row:int}", image),
        *([] if pictures is None else _picture_routes(catalog, pictures, reading)),
        Mount("/", StaticFiles(directory=STATIC, html=True)),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
            Middleware(_Guard, token=token),
        ],
        exception_handlers={ReinforcementError: _explain},
    )


def _picture_routes(
    catalog: Catalog, pictures: StoredPictures, reading: threading.Lock
) -> list[Route]:
    def served(kind: str, draw: Callable[[int, Request], bytes]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            row = _number(request, "row", len(catalog.shards))
            with reading:
                content = draw(row, request)
            return Response(content, headers=_PICTURE_HEADERS, media_type=kind)

        return answer

    def view(row: int, request: Request) -> bytes:
        sample = _number(request, "sample", catalog.shards.manifest.samples)
        return encoded_view(pictures, row, sample)

    thumbnail = served("image/jpeg", lambda row, _: encoded_image(pictures, row, THUMBNAIL))
    original = served("image/jpeg", lambda row, _: encoded_image(pictures, row, ORIGINAL))
    return [
        Route("/thumbnails/{row:int}.jpg", thumbnail),
        Route("/originals/{row:int}.jpg", original),
        Route("/views/{row:int}/{sample:int}.png", served("image/png", view)),
    ]


def _number(request: Request, name: str, count: int) -> int:
    number: int = request.path_params[name]
    if number >= count:
        raise HTTPException(404, f"there is no {name} {number}; the set has {count}")
    return number


def _explain(_: Request, error: Exception) -> Response:
    """What is wrong with an image or the set, which the page shows in the picture's place."""
    return PlainTextResponse(str(error), 404 if isinstance(error, UnknownImageError) else 500)


class _Guard:
    """Refuses requests without the token, and adds the headers to every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        given = scope["path"].removeprefix("/").partition("/")[0]
        app: Any = self.app
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            app = PlainTextResponse("open the address that dr-plugins explore printed", 403)
        await app(scope, receive, send_with_headers)
