"""Training on a shard set: the data set, and what a set demands of a trainer."""
