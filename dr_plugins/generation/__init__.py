"""Generating shard sets: the teachers' answers to many views of every image."""

from dr_plugins.generation.generate import GenerationSettings, reinforce
from dr_plugins.generation.teacher_schemes import load_teacher
from dr_plugins.generation.teachers import Ensemble

__all__ = ["Ensemble", "GenerationSettings", "load_teacher", "reinforce"]
