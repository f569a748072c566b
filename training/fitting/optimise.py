"""Device, arithmetic, optimiser: what one step of the fit runs on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from app.errors import ConfigurationError
from training.fitting.spec import TrainingPart

_DTYPES = {"none": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(local_rank: int = 0) -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def build_optimiser(network: nn.Module, part: TrainingPart) -> torch.optim.Optimizer:
    """Weight decay acts on weights with more than one dimension: not on biases, not on batch norm. Adam's is an L2 penalty."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": part.weight_decay}, {"params": others, "weight_decay": 0.0}]
    kind = torch.optim.AdamW if part.optimiser == "adamw" else torch.optim.Adam
    fused = next(network.parameters()).device.type in {"cpu", "cuda"}  # one pass over the weights instead of eight
    return kind(groups, lr=part.learning_rate, fused=fused)


class Arithmetic:
    """Precision of the forward pass and the scaling that float16 needs.

    Raises ConfigurationError("float16_needs_accelerator") for float16 on a CPU.
    """

    def __init__(self, part: TrainingPart, device: torch.device) -> None:
        if part.autocast == "float16" and device.type == "cpu":
            raise ConfigurationError(
                "float16_needs_accelerator",
                "autocast = 'float16' needs an accelerator: take 'bfloat16' or 'none' on a CPU",
            )
        self.device = device
        self.clip = part.gradient_clip
        self.dtype = _DTYPES[part.autocast]
        self.scaler = torch.amp.GradScaler(device.type, enabled=part.autocast == "float16")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def step(self, loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Gradients, clipped to a norm of `gradient_clip`, and one optimiser step."""
        optimiser.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's stub
        if self.clip is not None:
            self.scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        self.scaler.step(optimiser)
        self.scaler.update()
