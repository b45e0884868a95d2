"""A loop with Hugging Face accelerate.

python -m examples.loops.accelerate_loop ROOT SHARDS
torchrun --nproc-per-node 2 -m examples.loops.accelerate_loop ROOT SHARDS
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from examples.loops.common import open_run, options


@click.command(help=__doc__)
@options
def main(
    root: Path,
    shards: str,
    name: str,
    epochs: int,
    batch_size: int,
    workers: int,
    lr: float,
    out: Path,
) -> None:
    """Train, and validate after each epoch."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    train, held_out, model, criterion = open_run(root, shards, name)
    loader = DataLoader(
        train, batch_size, shuffle=True, num_workers=workers, collate_fn=train.collate
    )
    validation = DataLoader(held_out, batch_size, num_workers=workers)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model, optimizer, loader, validation = accelerator.prepare(model, optimizer, loader, validation)
    accelerator.register_for_checkpointing(schedule)
    if (out / "state").exists():
        accelerator.load_state(str(out / "state"))
    for epoch in range(schedule.last_epoch, epochs):
        loader.set_epoch(epoch)  # or accelerate counts from 0 again after a restart
        train.set_epoch(epoch)  # with several processes, accelerate does not pass it on
        model.train()
        for images, targets in loader:  # on the device
            loss = criterion(model(images), targets)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        schedule.step()
        accuracy = top1(accelerator, model, validation)
        accelerator.print(f"epoch {epoch}  loss {loss.item():.3f}  top-1 {100 * accuracy:.2f}")
        accelerator.save_state(str(out / "state"))
    accelerator.wait_for_everyone()
    accelerator.save_model(model, str(out))
    accelerator.end_training()


@torch.inference_mode()
def top1(accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader) -> float:
    """Return the share of images whose most likely class is their label."""
    model.eval()
    right = [
        accelerator.gather_for_metrics((model(images).argmax(-1) == labels).float())
        for images, labels in loader
    ]
    return torch.cat(right).mean().item()


if __name__ == "__main__":
    main()
