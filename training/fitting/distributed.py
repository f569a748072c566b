"""Several processes on one fit, as torchrun starts them: one, if nobody did.

Every process deals out the same batches and changes the same films in the same way, then takes its own rows; gradients are the mean
over processes. What differs from one process with the same batch: batch statistics are each process's own on CPUs (on CUDA they are
synchronised), and sums are taken in another order. Process 0 alone writes.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from app.errors import ConfigurationError
from training.fitting.optimise import choose_device
from training.networks.network import TriageNetwork

_PATIENCE = timedelta(hours=2)  # others wait while process 0 decodes films or validates


@dataclass(frozen=True)
class Processes:
    """This process among all: rank 0..count - 1, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of a global batch. Raises ConfigurationError where it cannot be shared out evenly."""
        if batch % self.count:
            raise ConfigurationError(
                "batch_not_shared", f"a batch of {batch} films cannot be dealt evenly to {self.count} processes"
            )
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()

    def from_first(self, values: list[float]) -> list[float]:
        """Process 0's values, in every process."""
        if self.count == 1:
            return values
        held: list[object] = [values]
        dist.broadcast_object_list(held, src=0)
        return held[0]  # type: ignore[return-value]  # what process 0 put in

    def total(self, value: float) -> float:
        """Sum over all processes."""
        if self.count == 1:
            return value
        held = torch.tensor(
            value, dtype=torch.float64 if self.device.type == "cpu" else torch.float32, device=self.device
        )
        dist.all_reduce(held)
        return float(held)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as the training step calls it; only parameters that require a gradient at this moment are followed."""
        if self.count == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def synchronised(self, network: TriageNetwork) -> TriageNetwork:
        """Batch norm over all processes where torch has it: on CUDA."""
        if self.count == 1 or self.device.type != "cuda":
            return network
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-any-return,no-untyped-call]  # torch's stub

    def check_same(self, network: nn.Module) -> None:
        """Raises RuntimeError where the processes' weights have come apart."""
        if self.count == 1:
            return
        with torch.no_grad():
            own = torch.stack([p.detach().double().sum().cpu() for p in network.parameters()])
        sums: list[object] = [None] * self.count
        dist.all_gather_object(sums, own.tolist())
        if any(other != sums[0] for other in sums):
            raise RuntimeError("the processes' weights differ: a gradient was not shared")


def processes() -> Processes:
    """This process among those that torchrun started (gloo on CPUs, nccl on CUDA), or alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(0, 1, choose_device())
    device = choose_device(int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():  # and it stays so until the process ends: to leave and come again is a race
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        atexit.register(dist.destroy_process_group)
    return Processes(dist.get_rank(), count, device)
