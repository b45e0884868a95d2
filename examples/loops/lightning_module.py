"""Training with Lightning; `--resume` continues, also in the middle of an epoch.

python -m examples.loops.lightning_module ROOT SHARDS
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from dr_plugins import KDLoss, ReinforcedDataset, ResumableLoader, SparseTargets
from examples.loops.common import open_run, options


class Student(lightning.LightningModule):
    """A classifier that learns from stored answers."""

    def __init__(self, model: nn.Module, criterion: KDLoss, lr: float) -> None:
        super().__init__()
        self.model, self.criterion, self.lr = model, criterion, lr

    def training_step(self, batch: tuple[torch.Tensor, SparseTargets], index: int) -> torch.Tensor:
        """Return the loss of a batch, which Lightning has moved to the device."""
        images, targets = batch
        loss = self.criterion(self.model(images), targets)
        self.log("loss", loss, batch_size=len(images), prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        """Log the accuracy."""
        images, labels = batch
        right = (self.model(images).argmax(-1) == labels).float().mean()
        self.log("top-1", 100 * right, batch_size=len(images), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD."""
        return torch.optim.SGD(self.model.parameters(), self.lr, momentum=0.9, weight_decay=1e-4)

    def on_train_epoch_start(self) -> None:
        """Set the epoch of order and views; Lightning itself sets that of samplers only."""
        self.trainer.train_dataloader.set_epoch(self.current_epoch)


class Images(lightning.LightningDataModule):
    """Reinforced images to train on, plain ones to validate on."""

    def __init__(
        self, train: ReinforcedDataset, held_out: Any, batch_size: int, workers: int
    ) -> None:
        super().__init__()
        self.train, self.held_out = train, held_out
        self.batch_size, self.workers = batch_size, workers

    def train_dataloader(self) -> ResumableLoader:
        """Return a loader whose position Lightning keeps in its checkpoints."""
        return ResumableLoader(
            self.train,
            self.batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            num_workers=self.workers,
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader:
        """Return all images in order."""
        return DataLoader(self.held_out, self.batch_size, num_workers=self.workers)


@click.command(help=__doc__)
@options
@click.option("--devices", default="auto", show_default=True, help="Number of processes.")
@click.option("--save-every", default=100, show_default=True, help="Steps between checkpoints.")
@click.option("--resume", type=click.Path(exists=True), help="A checkpoint to continue from.")
def main(
    root: Path,
    shards: str,
    name: str,
    epochs: int,
    batch_size: int,
    workers: int,
    lr: float,
    out: Path,
    devices: str,
    save_every: int,
    resume: str | None,
) -> None:
    """Train, and validate after each epoch."""
    lightning.seed_everything(0)
    train, held_out, model, criterion = open_run(root, shards, name)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        devices=devices,
        default_root_dir=out,
        callbacks=[ModelCheckpoint(out, every_n_train_steps=save_every, save_last=True)],
        use_distributed_sampler=False,  # the loader divides the images itself
    )
    student, data = Student(model, criterion, lr), Images(train, held_out, batch_size, workers)
    trainer.fit(student, data, ckpt_path=resume)
    (metrics,) = trainer.validate(student, data, verbose=False)
    click.echo(f"top-1 {metrics['top-1']:.2f}")


if __name__ == "__main__":
    main()
