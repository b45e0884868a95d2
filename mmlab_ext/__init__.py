"""Dataset Reinforcement for MMEngine, MMDetection and MMSegmentation. Nothing is here yet.

Planned: an import that registers hooks, datasets, transforms, losses, metrics and a checkpoint
scheme in MMEngine's root registries, for use as ``custom_imports = dict(imports=["mmlab_ext"])`` in
a config. Until then importing this package registers nothing, and a config that names any of these
fails in MMEngine's own lookup.
"""

from __future__ import annotations

__all__: list[str] = []
