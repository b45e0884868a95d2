"""Training with the Trainer of Hugging Face transformers.

python -m examples.loops.huggingface_trainer ROOT SHARDS
torchrun --nproc-per-node 2 -m examples.loops.huggingface_trainer ROOT SHARDS
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from torch import nn
from torch.utils.data import default_collate
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

from dr_plugins import KDLoss, ReinforcedDataset
from examples.loops.common import open_run, options


class ReinforcedTrainer(Trainer):
    """A trainer for image classifiers that learns from stored answers."""

    def __init__(self, train: ReinforcedDataset, criterion: KDLoss, **kwargs: Any) -> None:
        super().__init__(train_dataset=train, callbacks=[SetEpoch(train)], **kwargs)
        self.criterion = criterion

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        """Return the loss of a batch; the targets are stored answers, or labels to evaluate."""
        logits = model(inputs["images"])
        loss = self.criterion(logits, inputs["targets"])
        return (loss, {"logits": logits}) if return_outputs else loss


class SetEpoch(TrainerCallback):
    """Advances the dataset: in several processes the trainer sets the epoch of samplers only."""

    def __init__(self, train: ReinforcedDataset) -> None:
        self.train = train

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch before workers load its first batch."""
        self.train.set_epoch(int(state.epoch))


def collate(samples: Any) -> dict[str, Any]:
    """Join samples into a batch with names, as the trainer wants them."""
    is_training = not isinstance(samples[0][1], int)
    images, targets = (ReinforcedDataset.collate if is_training else default_collate)(samples)
    return {"images": images, "targets": targets}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of images whose most likely class is their label, in percent."""
    right = prediction.predictions.argmax(-1) == prediction.label_ids
    return {"top1": 100 * right.mean()}


@click.command(help=__doc__)
@options
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in --out.")
def main(
    root: Path,
    shards: str,
    name: str,
    epochs: int,
    batch_size: int,
    workers: int,
    lr: float,
    out: Path,
    resume: bool,
) -> None:
    """Train, and validate after each epoch."""
    train, held_out, model, criterion = open_run(root, shards, name)
    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        dataloader_num_workers=workers,
        learning_rate=lr,
        optim="sgd",
        optim_args="momentum=0.9",
        eval_strategy="epoch",
        save_strategy="epoch",
        remove_unused_columns=False,
        label_names=["targets"],
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = ReinforcedTrainer(
        train,
        criterion,
        model=model,
        args=arguments,
        data_collator=collate,
        eval_dataset=held_out,
        compute_metrics=accuracy,
    )
    trainer.train(resume_from_checkpoint=resume or None)
    click.echo(f"top-1 {trainer.evaluate()['eval_top1']:.2f}")


if __name__ == "__main__":
    main()
