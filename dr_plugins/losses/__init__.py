"""Losses on a teacher's stored answers, by name in every host."""

from dr_plugins.losses.base import DistillationLoss
from dr_plugins.losses.kd_loss import KDLoss
from dr_plugins.losses.registry import build_loss, loss_names

__all__ = ["DistillationLoss", "KDLoss", "build_loss", "loss_names"]
