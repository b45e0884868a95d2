"""A package, because MMSegmentation installs one of the same name."""
