"""``python docs/site/screenshots.py OUT``: pages of build/site, light and dark, wide and narrow.

Needs Chromium on the path. A look at these pictures belongs to every change of how pages look.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SITE = Path(__file__).resolve().parents[2] / "build" / "site"
SIZES = {"wide": "1440,1200", "narrow": "500,1000"}
SCHEMES = {"light": "1", "dark": "0"}


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def main(out: Path, pages: list[str]) -> None:
    """Take pictures of pages, all of the site's if none are named."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is not on the path: apt-get install chromium")
    if not SITE.is_dir():
        sys.exit(f"{SITE} does not exist: run `make docs` first")
    handler = functools.partial(QuietHandler, directory=str(SITE))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    out.mkdir(parents=True, exist_ok=True)
    names = pages or [str(p.parent.relative_to(SITE)) for p in sorted(SITE.rglob("index.html"))]
    for name in names:
        for size, pixels in SIZES.items():
            for scheme, number in SCHEMES.items():
                picture = (
                    out / f"{name.strip('./').replace('/', '-') or 'start'}-{size}-{scheme}.png"
                )
                with tempfile.TemporaryDirectory() as profile:
                    subprocess.run(
                        [
                            browser,
                            "--headless=new",
                            "--no-sandbox",
                            "--hide-scrollbars",
                            f"--user-data-dir={profile}",
                            f"--blink-settings=preferredColorScheme={number}",
                            f"--window-size={pixels}",
                            "--virtual-time-budget=5000",
                            f"--screenshot={picture}",
                            f"http://127.0.0.1:{server.server_port}/{name.strip('./')}/",
                        ],
                        check=True,
                        capture_output=True,
                    )
                print(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
