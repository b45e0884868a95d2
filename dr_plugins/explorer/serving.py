"""Serving the page to this machine."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable

from dr_plugins.errors import SettingsMismatchError
from dr_plugins.explorer.catalog import Catalog
from dr_plugins.pictures import StoredPictures

_HOST = "127.0.0.1"


def serve(
    catalog: Catalog,
    pictures: StoredPictures | None,
    *,
    port: int = 0,
    browser: bool = True,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve the page on this machine's loopback interface, until Ctrl-C or SIGTERM.

    Args:
        catalog: The shard set's data.
        pictures: Its images; None shows the data alone.
        port: Port of 127.0.0.1; 0 takes a free one.
        browser: Open the page in a browser.
        announce: Is given the page's address, which contains a new random token.

    Raises:
        SettingsMismatchError: The port is not free.
        ImportError: The extra ``explore`` is not installed.

    Example:
        >>> serve(catalog, pictures, port=8000)                             # doctest: +SKIP
        http://127.0.0.1:8000/NIB4lm8mg6hSoYSg3cOOsS0Q_7Wk1XTp/
    """
    try:
        import uvicorn

        from dr_plugins.explorer.server import build_app
    except ImportError as error:
        raise ImportError(
            f"serving the page needs Starlette and uvicorn: {error}. Install them with "
            f'`pip install "dr-plugins[explore]"`, or export the page as files.'
        ) from error
    token = secrets.token_urlsafe(24)
    app = build_app(catalog, pictures, token)
    with _listening(port) as listener:
        address = f"http://{_HOST}:{listener.getsockname()[1]}/{token}/"
        announce(address)
        if browser:  # in a thread: some browsers return when they are closed
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn when it has ended
            uvicorn.Server(config).run(sockets=[listener])


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise SettingsMismatchError(
            f"cannot listen on port {port}: {error.strerror}. Choose another --port; 0 takes a "
            f"free one."
        ) from error
    listener.listen()
    return listener
