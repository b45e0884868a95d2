"""The calls of timm's train.py that concern data and loss, in its order and with its defaults.

timm's package does not contain train.py. Like it, this script binds timm's names before it imports
the modules of ``--device-modules``, trains, and prints what it saw as one line of JSON.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from timm import utils
from timm.data import (
    AugMixDataset,
    FastCollateMixup,
    Mixup,
    create_dataset,
    create_loader,
    create_naflex_loader,
    resolve_data_config,
)
from timm.loss import (
    BinaryCrossEntropy,
    JsdCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from timm.models import resume_checkpoint
from torch import nn

FLAGS = ("no-prefetcher", "pin-mem", "amp", "channels-last", "model-ema", "bce-loss", "jsd-loss")
FLAGS = (*FLAGS, "naflex-loader", "use-multi-epochs-loader", "torchcompile", "sampler-epoch")
FLAGS = (*FLAGS, "resume-first")
TEXTS = ("dataset", "data-dir", "train-split", "aa", "input-img-mode", "class-map")
TEXTS = (*TEXTS, "output", "resume")
NUMBERS = {"aug-repeats": 0, "reprob": 0, "mixup": 0, "cutmix": 0, "smoothing": 0.1, "hflip": 0.5}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device-modules", nargs="+", default=[])
    parser.add_argument("--scale", type=float, nargs=2)
    parser.add_argument("--train-img-sizes", type=int, nargs="+")
    for name in FLAGS:
        parser.add_argument(f"--{name}", action="store_true")
    for name in TEXTS:
        parser.add_argument(f"--{name}")
    for name, default in NUMBERS.items():
        parser.add_argument(f"--{name}", type=float, default=default)
    for name in ("num-classes", "img-size", "in-chans"):
        parser.add_argument(f"--{name}", type=int)
    for name, number in {"workers": 0, "epochs": 2, "epoch-repeats": 0, "aug-splits": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, number in {"seed": 42, "batch-size": 4, "recovery-interval": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--grad-accum-steps", type=int, default=1)
    parser.set_defaults(model="test_resnet", train_split="train", class_map="")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    utils.setup_default_logging()
    args = parse(argv)
    for module in args.device_modules:
        importlib.import_module(module)
    args.device = "cpu"
    device = utils.init_distributed_device(args)
    utils.random_seed(args.seed, args.rank)
    model = timm.create_model(
        "test_resnet", in_chans=args.in_chans or 3, num_classes=args.num_classes
    )
    data_config = resolve_data_config(vars(args), model=model)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    start_epoch = None
    if args.resume and args.resume_first:  # as train.py before 1.0.27 does
        start_epoch = resume_checkpoint(model, args.resume, optimizer)
    loader, loader_eval, mixup_fn = create_loaders(args, data_config, device)
    criterion = create_criterion(args)
    if args.resume and not args.resume_first:
        start_epoch = resume_checkpoint(model, args.resume, optimizer)
    saver = None
    if args.output and utils.is_primary(args):
        saver = utils.CheckpointSaver(
            model, optimizer, args, checkpoint_dir=args.output, recovery_dir=args.output
        )
    ema = utils.ModelEmaV3(model, decay=0.9) if args.model_ema else None
    network = torch.compile(model, backend="eager") if args.torchcompile else model
    if args.distributed:
        network = nn.parallel.DistributedDataParallel(network)
    report: dict[str, Any] = {"rank": args.rank, "criterion": type(criterion).__name__}
    report["epochs"] = []
    for epoch in range(start_epoch or 0, args.epochs):
        set_loader_epoch(args, loader, epoch)
        recover = functools.partial(saver.save_recovery, epoch) if saver is not None else None
        seen = train_one_epoch(args, network, loader, criterion, optimizer, mixup_fn, recover)
        if ema is not None:
            ema.update(model)
        report["epochs"].append({**seen, "eval": validate(args, model, loader_eval)})
        if saver is not None:
            saver.save_checkpoint(epoch, metric=-epoch)
    if args.distributed:
        torch.distributed.destroy_process_group()
    return report


def create_loaders(args: argparse.Namespace, data_config: Any, device: Any) -> Any:
    mode = "RGB" if data_config["input_size"][0] == 3 else "L"
    mode = args.input_img_mode or mode
    common = {"root": args.data_dir, "class_map": args.class_map, "download": False}
    common |= {"batch_size": args.batch_size, "input_img_mode": mode, "input_key": None}
    common |= {"target_key": None, "num_samples": None}
    dataset = create_dataset(
        args.dataset,
        split=args.train_split,
        is_training=True,
        seed=args.seed,
        repeats=args.epoch_repeats,
        **common,
    )
    dataset_eval = create_dataset(args.dataset, split="validation", is_training=False, **common)
    shared = {
        "mean": data_config["mean"],
        "std": data_config["std"],
        "pin_memory": args.pin_mem,
        "img_dtype": torch.float32,
        "device": device,
        "distributed": args.distributed,
        "use_prefetcher": not args.no_prefetcher,
        "num_workers": args.workers,
        # Unlike train.py, which fails without workers before timm 1.0.30.
        "persistent_workers": args.workers > 0,
    }
    train = {
        "batch_size": args.batch_size,
        "is_training": True,
        "no_aug": False,
        "re_prob": args.reprob,
        "re_mode": "pixel",
        "scale": args.scale,
        "hflip": args.hflip,
        "color_jitter": 0.4,
        "auto_augment": args.aa,
        "num_aug_repeats": args.aug_repeats,
        "num_aug_splits": args.aug_splits,
        "interpolation": "random",
        "worker_seeding": "all",
    }
    collate_fn = mixup_fn = None
    if args.naflex_loader:
        loader = create_naflex_loader(dataset=dataset, patch_size=16, **shared, **train)
    else:
        if args.mixup > 0 or args.cutmix > 0:
            mixing = {"mixup_alpha": args.mixup, "cutmix_alpha": args.cutmix}
            mixing["num_classes"] = args.num_classes
            if args.no_prefetcher:
                mixup_fn = Mixup(**mixing)
            else:
                collate_fn = FastCollateMixup(**mixing)
        if args.aug_splits > 1:
            dataset = AugMixDataset(dataset, num_splits=args.aug_splits)
        if args.train_img_sizes:
            train["input_size_choices"] = args.train_img_sizes
        loader = create_loader(
            dataset,
            input_size=data_config["input_size"],
            collate_fn=collate_fn,
            use_multi_epochs_loader=args.use_multi_epochs_loader,
            **shared,
            **train,
        )
    loader_eval = create_loader(
        dataset_eval,
        input_size=data_config["input_size"],
        batch_size=args.batch_size,
        is_training=False,
        interpolation=data_config["interpolation"],
        crop_pct=data_config["crop_pct"],
        **shared,
    )
    return loader, loader_eval, mixup_fn


def create_criterion(args: argparse.Namespace) -> nn.Module:
    if args.jsd_loss:
        return JsdCrossEntropy(num_splits=args.aug_splits, smoothing=args.smoothing)
    if args.mixup > 0 or args.cutmix > 0:
        return SoftTargetCrossEntropy()
    if args.bce_loss:
        return BinaryCrossEntropy(smoothing=args.smoothing)
    if args.smoothing:
        return LabelSmoothingCrossEntropy(smoothing=args.smoothing)
    return nn.CrossEntropyLoss()


def set_loader_epoch(args: argparse.Namespace, loader: Any, epoch: int) -> None:
    """As train.py up to 1.0.28 does; with ``--sampler-epoch`` as later ones do."""
    if hasattr(loader.dataset, "set_epoch"):
        loader.dataset.set_epoch(epoch)
        if not args.sampler_epoch:
            return
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)


def train_one_epoch(
    args: argparse.Namespace,
    model: nn.Module,
    loader: Any,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    mixup_fn: Any,
    save_recovery: Callable[..., None] | None = None,
) -> dict[str, Any]:
    model.train()
    losses, batches, targets = [], [], []
    for index, (images, target) in enumerate(loader):
        if args.no_prefetcher:
            images, target = images.to(dtype=torch.float32), target.to(device="cpu")
            if mixup_fn is not None:
                images, target = mixup_fn(images, target)
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.amp):
            loss = criterion(model(images), target)
        (loss / args.grad_accum_steps).backward()
        if (index + 1) % args.grad_accum_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        batches.append(hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()[:12])
        ids = getattr(target, "ids", target)
        targets.append(type(target).__name__ + str(ids.tolist()))
        update, rest = divmod(index + 1, args.grad_accum_steps)
        is_due = args.recovery_interval and not rest and update % args.recovery_interval == 0
        if save_recovery and is_due:
            save_recovery(batch_idx=update - 1)
    return {"losses": losses, "images": batches, "targets": targets}


def validate(args: argparse.Namespace, model: nn.Module, loader: Any) -> float:
    model.eval()
    criterion, total = nn.CrossEntropyLoss(), 0.0
    with torch.inference_mode():
        for images, target in loader:
            total += criterion(model(images), target).item()
    return total / len(loader)


if __name__ == "__main__":
    # In one call, so that the lines of two processes stay apart.
    os.write(sys.stdout.fileno(), (json.dumps(main()) + "\n").encode())
