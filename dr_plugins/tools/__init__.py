"""Tools for shard sets: describe and verify."""
