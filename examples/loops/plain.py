"""A plain PyTorch loop, on one process or many; it continues in the middle of an epoch.

python -m examples.loops.plain ROOT SHARDS
torchrun --nproc-per-node 2 -m examples.loops.plain ROOT SHARDS
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from dr_plugins import ResumableLoader
from examples.loops.common import open_run, options


@click.command(help=__doc__)
@options
@click.option("--save-every", default=100, show_default=True, help="Steps between checkpoints.")
def main(
    root: Path,
    shards: str,
    name: str,
    epochs: int,
    batch_size: int,
    workers: int,
    lr: float,
    out: Path,
    save_every: int,
) -> None:
    """Train, and validate after each epoch."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else "cpu"
    train, held_out, model, criterion = open_run(root, shards, name)
    model.to(device)
    loader = ResumableLoader(
        train, batch_size, rank=rank, world_size=world, num_workers=workers, drop_last=True
    )
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    last = out / "last.pt"
    if last.exists():
        state = torch.load(last, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
    if world > 1:
        distributed.init_process_group("nccl" if on_gpu else "gloo")
    network = DistributedDataParallel(model) if world > 1 else model

    def save() -> None:
        if rank == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            out.mkdir(parents=True, exist_ok=True)
            torch.save({**state, "loader": loader.state_dict()}, out / "part.pt")
            (out / "part.pt").replace(last)

    for epoch in range(loader.epoch, epochs):
        loader.set_epoch(epoch)
        network.train()
        for step, (images, targets) in enumerate(loader, 1):
            loss = criterion(network(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % save_every == 0:
                save()
        save()
        if rank == 0:
            accuracy = top1(model, DataLoader(held_out, batch_size, num_workers=workers), device)
            click.echo(f"epoch {epoch}  loss {loss.item():.3f}  top-1 {100 * accuracy:.2f}")
    if world > 1:
        distributed.destroy_process_group()


@torch.inference_mode()
def top1(model: torch.nn.Module, loader: DataLoader, device: torch.device | str) -> float:
    """Return the share of images whose most likely class is their label."""
    model.eval()
    right = [
        (model(images.to(device)).argmax(-1).cpu() == labels).float() for images, labels in loader
    ]
    return torch.cat(right).mean().item()


if __name__ == "__main__":
    main()
