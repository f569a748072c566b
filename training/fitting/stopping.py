"""Watching a fit on the clean fit-half of the validation: early stopping, and the plateau schedule.

The watched network is the one that would be handed over (the average, where there is one), at the size of the service's input.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from app.bundle.input_spec import InputSpec
from app.domain import Task
from app.errors import ConfigurationError
from training.fitting.augment import network_input
from training.fitting.losses import Loss
from training.fitting.spec import EarlyStopping, SchedulePart
from training.networks.network import TriageNetwork

_BATCH = 64


@dataclass
class Watch:
    """What early stopping and the plateau schedule remember. best: state dict of the best epoch, on the CPU."""

    best_value: float | None = None
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    bad_epochs: int = 0
    plateau_epochs: int = 0
    reductions: int = 0

    def take(
        self, part: EarlyStopping, schedule: SchedulePart, value: float, epoch: int, state: Mapping[str, Tensor]
    ) -> None:
        """Note the figure after this epoch (counted from 1); the first of equals stays the best."""
        if self.best_value is None or (
            value < self.best_value if part.metric == "val_loss" else value > self.best_value
        ):
            self.best_value, self.best_epoch = value, epoch
            self.best = {name: copy.deepcopy(tensor.detach()).cpu() for name, tensor in state.items()}
            self.bad_epochs = self.plateau_epochs = 0
            return
        self.bad_epochs += 1
        self.plateau_epochs += 1
        if schedule.kind == "plateau" and self.plateau_epochs >= schedule.patience:
            self.reductions += 1
            self.plateau_epochs = 0

    def stops(self, part: EarlyStopping) -> bool:
        return self.bad_epochs >= part.patience

    def saved(self) -> dict[str, Any]:
        """Plain values and tensors, for the checkpoint."""
        return dict(vars(self))


@torch.no_grad()
def validate(
    network: TriageNetwork,
    films: NDArray[np.uint8],
    target: NDArray[np.float32],
    spec: InputSpec,
    *,
    loss: Loss,
    task: Task,
) -> dict[str, float]:
    """val_auroc, val_macro_f1 and val_loss of films uint8 [N, S, S] with targets float32 [N, K].

    val_loss: the training's loss. Macro: mean over classes (binary: over both; multilabel: over labels with both answers; AUROC
    of a multiclass is one against the rest). Decisions at probability 0.5, or the largest (multiclass).
    """
    logits, device = predict(network, films, spec), loss.weights.device
    value = float(loss(logits.to(device), torch.from_numpy(target).to(device)))
    found = logits.double().numpy()
    return {
        "val_auroc": macro_auroc(target, found, task),
        "val_macro_f1": macro_f1(target, found, task),
        "val_loss": value,
    }


@torch.no_grad()
def predict(network: TriageNetwork, films: NDArray[np.uint8], spec: InputSpec) -> Tensor:
    """Logits float32 [N, K] on the CPU, in evaluation mode and float32. films: uint8 [N, S, S]. Leaves the network in that mode."""
    network.eval()
    device = next(network.parameters()).device
    found = []
    for start in range(0, len(films), _BATCH):
        batch = torch.from_numpy(np.array(films[start : start + _BATCH])).to(device)
        image = network_input(batch[:, None].float(), spec).contiguous(memory_format=torch.channels_last)
        found.append(network(image)[0].float().cpu())
    return torch.cat(found)


def macro_auroc(target: NDArray[np.float32], logits: NDArray[np.float64], task: Task) -> float:
    """Mean AUROC over the logits whose labels have both answers; nan where none has. Multiclass: softmax margins against the rest."""
    if task == "multiclass":
        others = np.stack([np.delete(logits, k, axis=1) for k in range(logits.shape[1])], axis=1)
        logits = logits - np.logaddexp.reduce(others, axis=2)
    values = []
    for y, z in zip(target.T, logits.T, strict=True):
        known = np.isfinite(y)
        if len(np.unique(y[known])) == 2:
            values.append(float(roc_auc_score(y[known], z[known])))
    return float(np.mean(values)) if values else math.nan


def macro_f1(target: NDArray[np.float32], logits: NDArray[np.float64], task: Task) -> float:
    """Mean F1 over classes (binary: both); multilabel: over labels with a known positive, nan where there is none."""
    if task == "multiclass":
        return float(f1_score(target.argmax(1), logits.argmax(1), average="macro", zero_division=0.0))
    if task == "binary":
        return float(f1_score(target[:, 0] == 1, logits[:, 0] > 0, average="macro", zero_division=0.0))
    pairs = [(y[np.isfinite(y)] == 1, z[np.isfinite(y)] > 0) for y, z in zip(target.T, logits.T, strict=True)]
    values = [float(f1_score(y, z, zero_division=0.0)) for y, z in pairs if y.any()]
    return float(np.mean(values)) if values else math.nan


def watched(figures: Mapping[str, float], part: EarlyStopping) -> float:
    """The figure that early stopping follows. Raises ConfigurationError where the validation cannot give it."""
    value = figures[part.metric if part.metric == "val_loss" else f"val_{part.metric}"]
    if not math.isfinite(value):
        raise ConfigurationError(
            "early_stopping",
            f"{part.metric} cannot be computed: the validation's fit half does not show both answers of any label",
        )
    return value
