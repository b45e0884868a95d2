"""timm's training on one device, with the options of its train.py.

timm's package has all parts of a training except train.py. This puts them together for one device,
so that the recipes run, and are tested, where train.py is not at hand; for several GPUs, use timm's
script. An option that is not listed here is an error, while train.py takes any key in a file.
"""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
import timm.data
import timm.utils
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2
from timm.task import (
    ClassificationTask,
    LogitDistillationTask,
    TrainingTask,
    load_task_ema_checkpoint,
    resume_task_checkpoint,
)
from torch import nn
from tqdm import tqdm

import timm_ext
from dr_plugins import ReinforcedDataset

# train.py's options, with its defaults.
_DATA = {"dataset": "", "data_dir": None, "dataset_download": False, "num_classes": None}
_MODEL = {"model": "resnet50", "pretrained": False, "pretrained_path": None, "model_kwargs": {}}
_MODEL |= {"drop": 0.0, "drop_path": None}
_IMAGES = {"img_size": None, "mean": None, "std": None, "crop_pct": None, "interpolation": ""}
_BATCHES = {"batch_size": 128, "workers": 4, "seed": 42, "grad_accum_steps": 1}
_DEVICE = {"device": "cuda", "device_modules": [], "amp": False, "amp_dtype": "float16"}
_DEVICE |= {"channels_last": False}
_OPTIMIZER = {"opt": "sgd", "opt_betas": None, "opt_kwargs": {}, "momentum": 0.9}
_OPTIMIZER |= {"weight_decay": 2e-5, "clip_grad": None}
_SCHEDULE = {"lr": None, "lr_base": 0.1, "lr_base_size": 256, "sched": "cosine", "epochs": 300}
_SCHEDULE |= {"sched_on_updates": False, "warmup_epochs": 5, "warmup_lr": 1e-5, "min_lr": 0.0}
_AUGMENTATION = {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3], "hflip": 0.5, "color_jitter": 0.4}
_AUGMENTATION |= {"aa": None, "reprob": 0.0, "remode": "pixel", "train_interpolation": "random"}
_MIXING = {"mixup": 0.0, "cutmix": 0.0, "mixup_prob": 1.0, "mixup_switch_prob": 0.5}
_LOSS = {"smoothing": 0.1, "kd_model_name": None, "kd_temperature": 4.0}
_LOSS |= {"distill_loss_weight": None, "task_loss_weight": None}
_AVERAGE = {"model_ema": False, "model_ema_decay": 0.9998}
_OUTPUT = {"output": "output/train", "experiment": "recipe", "resume": "", "checkpoint_hist": 10}
DEFAULTS: dict[str, Any] = {
    **_DATA,
    **_MODEL,
    **_IMAGES,
    **_BATCHES,
    **_DEVICE,
    **_OPTIMIZER,
    **_SCHEDULE,
    **_AUGMENTATION,
    **_MIXING,
    **_LOSS,
    **_AVERAGE,
    **_OUTPUT,
}


def train(options: Mapping[str, Any]) -> None:
    """Train a model; checkpoints and ``summary.csv`` appear in ``output/experiment``.

    Args:
        options: As in a YAML file for train.py.

    Raises:
        click.UsageError: An option is unknown here.
    """
    if unknown := set(options) - set(DEFAULTS):
        raise click.UsageError(
            f"unknown options: {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(DEFAULTS)}. timm's train.py may know them: give --train-script"
        )
    args = Namespace(**{**DEFAULTS, **options})
    for module in args.device_modules:
        importlib.import_module(module)
    device = torch.device(args.device)
    timm.utils.random_seed(args.seed)
    model = _create_model(args).to(device)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    loader, validation = _create_loaders(args, model, device)
    task = _create_task(args, model, loader, device)
    args.lr = args.lr or _learning_rate(args)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(args), **args.opt_kwargs)
    _Training(args, task, optimizer, loader, validation, device).run()


class _Training:
    """A task with all that changes from step to step."""

    def __init__(
        self,
        args: Namespace,
        task: TrainingTask,
        optimizer: torch.optim.Optimizer,
        loader: Any,
        validation: Any,
        device: torch.device,
    ) -> None:
        self.args, self.task, self.optimizer = args, task, optimizer
        self.loader, self.validation, self.device = loader, validation, device
        halved = args.amp and args.amp_dtype == "float16" and device.type == "cuda"
        self.scaler = timm.utils.NativeScaler(device=device.type) if halved else None
        self.start = 0
        if args.resume:
            self.start = resume_task_checkpoint(task, args.resume, optimizer, self.scaler) or 0
        if args.model_ema:
            task.setup_ema(decay=args.model_ema_decay)
            if args.resume:
                load_task_ema_checkpoint(task, args.resume)
        self.updates = -(-len(loader) // args.grad_accum_steps)  # an epoch
        self.schedule, self.epochs = create_scheduler_v2(
            optimizer,
            args.sched,
            num_epochs=args.epochs,
            warmup_epochs=args.warmup_epochs,
            warmup_lr=args.warmup_lr,
            min_lr=args.min_lr,
            step_on_epochs=not args.sched_on_updates,
            updates_per_epoch=self.updates,
        )
        if self.start:
            self.schedule.step(self.start)
            self.schedule.step_update(self.start * self.updates)

    def run(self) -> None:
        """Train, validate and save, epoch by epoch."""
        args = self.args
        folder = timm.utils.get_outdir(args.output, args.experiment)
        saver = timm.utils.CheckpointSaver(
            self.task.get_trainable_module(),
            self.optimizer,
            args=args,
            amp_scaler=self.scaler,
            checkpoint_dir=folder,
            max_history=args.checkpoint_hist,
            task=self.task,
        )
        for epoch in range(self.start, self.epochs):
            for part in (self.loader.dataset, self.loader.sampler):
                if hasattr(part, "set_epoch"):
                    part.set_epoch(epoch)
            loss = self._train_epoch(epoch)
            top1 = self._validate()
            lr = self.optimizer.param_groups[0]["lr"]
            print(f"epoch {epoch}: loss {loss:.4f}, top-1 {top1:.2f} %", flush=True)
            timm.utils.update_summary(
                epoch,
                {"loss": loss},
                {"top1": top1},
                f"{folder}/summary.csv",
                lr=lr,
                write_header=epoch == 0,
            )
            saver.save_checkpoint(epoch, metric=top1)
            self.schedule.step(epoch + 1)

    def _train_epoch(self, epoch: int) -> float:
        task, args = self.task, self.args
        task.get_trainable_module().train()
        mean, updates = timm.utils.AverageMeter(), epoch * self.updates
        self.optimizer.zero_grad()
        batches = tqdm(self._batches(self.loader), f"epoch {epoch}", len(self.loader), leave=False)
        for number, (images, targets) in enumerate(batches, 1):
            with self._autocast():
                loss = task(images, targets)["loss"]
            mean.update(loss.item(), len(images))
            before = (number - 1) // args.grad_accum_steps * args.grad_accum_steps
            count = min(args.grad_accum_steps, len(self.loader) - before)  # of this update
            last = number == before + count
            self._backward(loss / count, last)
            if last:
                updates += 1
                self.optimizer.zero_grad()
                task.update_ema(step=updates)
                self.schedule.step_update(updates)
        return float(mean.avg)

    def _backward(self, loss: torch.Tensor, update: bool) -> None:
        clip = self.args.clip_grad
        parameters = self.task.get_clip_parameters()
        if self.scaler is not None:
            self.scaler(
                loss, self.optimizer, clip_grad=clip, parameters=parameters, need_update=update
            )
            return
        loss.backward()
        if update:
            if clip is not None:
                timm.utils.dispatch_clip_grad(parameters, value=clip)
            self.optimizer.step()

    @torch.inference_mode()
    def _validate(self) -> float:
        model = self.task.get_eval_model(ema=self.args.model_ema).eval()
        mean = timm.utils.AverageMeter()
        for images, labels in self._batches(self.validation):
            with self._autocast():
                logits = model(images)
            mean.update(timm.utils.accuracy(logits, labels)[0].item(), len(images))
        return float(mean.avg)

    def _batches(self, loader: Any) -> Iterator[Any]:
        layout = torch.channels_last if self.args.channels_last else torch.contiguous_format
        for images, targets in loader:
            yield images.contiguous(memory_format=layout), targets

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = getattr(torch, self.args.amp_dtype)
        return torch.autocast(self.device.type, dtype, enabled=self.args.amp)


def _create_model(args: Namespace) -> nn.Module:
    weights = {}
    if args.pretrained_path:
        if not Path(args.pretrained_path).is_file():
            raise FileNotFoundError(f"pretrained_path: no such file: {args.pretrained_path}")
        # -1: another classifier than the file's.
        weights["pretrained_cfg_overlay"] = {"file": args.pretrained_path, "num_classes": -1}
    model = timm.create_model(
        args.model,
        pretrained=args.pretrained,
        num_classes=args.num_classes,
        drop_rate=args.drop,
        drop_path_rate=args.drop_path,
        **weights,
        **args.model_kwargs,
    )
    args.num_classes = model.num_classes
    return model


def _create_loaders(args: Namespace, model: nn.Module, device: torch.device) -> tuple[Any, Any]:
    config = timm.data.resolve_data_config(vars(args), model=model)
    shared = {name: config[name] for name in ("input_size", "mean", "std")}
    shared |= {"batch_size": args.batch_size, "num_workers": args.workers, "device": device}
    shared["persistent_workers"] = args.workers > 0
    where = {"root": args.data_dir, "download": args.dataset_download, "seed": args.seed}
    train = timm_ext.create_dataset(args.dataset, split="train", is_training=True, **where)
    held_out = timm_ext.create_dataset(args.dataset, split="validation", **where)
    loader = timm_ext.create_loader(
        train,
        is_training=True,
        scale=args.scale,
        ratio=args.ratio,
        hflip=args.hflip,
        color_jitter=args.color_jitter,
        auto_augment=args.aa,
        re_prob=args.reprob,
        re_mode=args.remode,
        interpolation=args.train_interpolation,
        collate_fn=_create_mixing(args),
        **shared,
    )
    validation = timm_ext.create_loader(
        held_out, interpolation=config["interpolation"], crop_pct=config["crop_pct"], **shared
    )
    return loader, validation


def _create_mixing(args: Namespace) -> Any:
    if not args.mixup and not args.cutmix:
        return None
    return timm.data.FastCollateMixup(
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        label_smoothing=args.smoothing,
        num_classes=args.num_classes,
    )


def _create_task(
    args: Namespace, model: nn.Module, loader: Any, device: torch.device
) -> TrainingTask:
    if args.mixup or args.cutmix:
        criterion: nn.Module = SoftTargetCrossEntropy()
    elif args.smoothing:
        criterion = LabelSmoothingCrossEntropy(args.smoothing)
    else:
        criterion = nn.CrossEntropyLoss()
    if isinstance(loader.dataset, ReinforcedDataset):
        criterion = timm_ext.create_loss(loader.dataset)
    if args.kd_model_name is None:
        return ClassificationTask(model, criterion, device=device)
    return LogitDistillationTask(
        model,
        args.kd_model_name,
        criterion,
        distill_loss_weight=args.distill_loss_weight,
        task_loss_weight=args.task_loss_weight,
        temperature=args.kd_temperature,
        device=device,
    )


def _learning_rate(args: Namespace) -> float:
    """As in train.py: in proportion to the batch, or to its square root for Adam's relatives."""
    ratio = args.batch_size * args.grad_accum_steps / args.lr_base_size
    adaptive = "ada" in args.opt or "lamb" in args.opt
    return float(args.lr_base * (ratio**0.5 if adaptive else ratio))
