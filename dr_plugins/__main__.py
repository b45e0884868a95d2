"""``python -m dr_plugins`` is ``dr-plugins``."""

from dr_plugins.cli.main import main

if __name__ == "__main__":
    main(prog_name="dr-plugins")
