"""The ``dr-plugins`` command, a module for each group of its subcommands."""
