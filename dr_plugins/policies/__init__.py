"""Policies: which transforms make a view, with every hyper-parameter; presets as YAML."""
