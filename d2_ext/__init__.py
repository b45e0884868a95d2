"""Dataset Reinforcement for Detectron2. Nothing is here yet.

Planned: an import that registers timm backbones and a classification architecture in Detectron2's
registries, a checkpoint handler for ``imagenet-plus://`` addresses, and lazy configs. Until then
importing this package registers nothing, and a config that names any of these fails in Detectron2's
own lookup.
"""

from __future__ import annotations

__all__: list[str] = []
