"""The shard format: its files, and how they are written and read (see ``FORMAT.md``)."""
