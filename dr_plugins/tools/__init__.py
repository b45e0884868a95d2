"""Tools for shard sets: describe, verify, and make sets from other sets."""
