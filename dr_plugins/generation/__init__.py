"""Making shard sets: the teachers' answers to many views of every image."""

from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teachers import Ensemble, load_teacher

__all__ = ["Ensemble", "GenerationSettings", "load_teacher", "reinforce"]
