"""Policies: the transforms that make a view, with all hyper-parameters; presets as YAML."""
