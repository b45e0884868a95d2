"""``python -m dr_plugins`` is ``dr-plugins``."""

from dr_plugins.cli import run

if __name__ == "__main__":
    run()
