"""Hooks for MMEngine's Runner."""

from mmlab_ext.hooks.backbone import ReinforcedBackboneHook
from mmlab_ext.hooks.reinforcement import ReinforcementHook

__all__ = ["ReinforcedBackboneHook", "ReinforcementHook"]
