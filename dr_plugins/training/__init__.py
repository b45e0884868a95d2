"""Training on a shard set: the dataset, and the requirements on the trainer."""
