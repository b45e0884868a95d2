"""Training on a shard set: the dataset, and what the set demands of a training run."""

from dr_plugins.training.contract import Contract, Effect, RunFacts, Setting

__all__ = ["Contract", "Effect", "RunFacts", "Setting"]
