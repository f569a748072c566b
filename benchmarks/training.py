"""Training speed of each network: our loop beside a plain torchvision loop, in one run on this machine.

    python -m benchmarks.training [--networks resnet18 ...] [--threads 2] [--batch 16] [--quick]

Both fit the same network on the same JPEG phantoms at the same size, batch and number of threads, in float32 on the CPU, with the
same torchvision v2 changes of the films (rotation, scale, brightness) and AdamW. The plain loop is what one writes first: a Dataset
that opens each film with PIL, transforms per image, a DataLoader in the same process, torchvision's model as it comes. Ours is the
one of `training.fitting` with the averaging and clipping of its recipes; it reads the films from the cache that a fit makes once.
The loops take turns; the figure is the median of the rounds' ratios, by the clock (`--clock cpu`: in processor seconds, on a machine
that others use too). The last lines are `ratio training/<network>: <number>`; a run without options writes its block of README.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own habit)
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from app.imaging.phantom import encode_jpeg, phantom
from app.inference.cores import usable_cores
from benchmarks.processes import quiet_share
from benchmarks.readme import write_block
from benchmarks.report import Report
from training.data.cache import load_pixels
from training.data.films import Film
from training.fitting.average import Average
from training.fitting.checkpoint import State
from training.fitting.distributed import Processes
from training.fitting.loop import Session, TrainingSet, run_epoch
from training.fitting.losses import build_loss
from training.fitting.optimise import Arithmetic, build_optimiser
from training.networks.network import build_network
from training.networks.torchvision_compat import import_torchvision
from training.recipe import Recipe, load_recipe

CLOCKS = {"wall": "by the clock", "cpu": "in processor seconds"}
NETWORKS = ("resnet18", "resnet50", "densenet121", "efficientnet_b0", "swin_t", "cnn3")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILM_PX = 384  # as the films of the data folder
CPU = torch.device("cpu")


class PlainFilms(Dataset[tuple[Tensor, Tensor]]):
    """JPEG files through PIL and torchvision's transforms, one by one."""

    def __init__(self, paths: list[Path], size: int) -> None:
        import_torchvision()
        from torchvision.transforms import v2  # noqa: PLC0415  (after the guard)

        self.paths = paths
        self.change = v2.Compose(
            [
                v2.Resize((size, size), antialias=True),
                v2.RandomAffine(10, scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR),
                v2.ColorJitter(0.1),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.change(Image.open(self.paths[index]).convert("RGB"))
        return image, torch.tensor([float(index % 2)])


def plain_network(name: str) -> nn.Module:
    """torchvision's model with one logit; cnn3 has no model there and is written down."""
    if name != "cnn3":
        return getattr(import_torchvision().models, name)(weights=None, num_classes=1)  # type: ignore[no-any-return]  # no types there
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1))


def plain_loop(name: str, paths: list[Path], size: int, batch: int) -> Callable[[], None]:
    """A call is one epoch."""
    torch.manual_seed(0)
    network = plain_network(name).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loader = DataLoader(PlainFilms(paths, size), batch, shuffle=True, drop_last=True)

    def epoch() -> None:
        for image, target in loader:
            loss = F.binary_cross_entropy_with_logits(network(image), target)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            optimiser.step()
            loss.item()

    return epoch


def our_loop(name: str, root: Path, paths: list[Path], size: int, batch: int) -> Callable[[], None]:
    """The same with `training.fitting`."""
    recipe = _recipe(name, size, batch)
    films = [Film(str(path.relative_to(root)), "films", "train", "", path.stem) for path in paths]
    pixels = load_pixels(root, films, recipe.input, root / "cache")
    target = (np.arange(len(films)) % 2).astype(np.float32)[:, None]
    network = build_network(recipe.network, outputs=1, channels=3, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    loss = build_loss(recipe.training.loss, "binary", target, CPU)
    session = Session(recipe, TrainingSet(pixels.images, target, ["films"] * len(films)), loss, Processes(0, 1, CPU))
    average = Average(recipe.training.average, network)
    state = State(network, average, build_optimiser(network, recipe.training), Arithmetic(recipe.training, CPU))
    return lambda: _our_epoch(session, state)


def _our_epoch(session: Session, state: State) -> None:
    with Progress(console=Console(quiet=True)) as progress:
        run_epoch(session, state, progress)


def _recipe(name: str, size: int, batch: int) -> Recipe:
    changes: dict[str, Any] = {
        "network.architecture": name,
        "network.head": {"kind": "linear", "dropout": [0.0]},
        "input.size": size,
        "input.channels": 3,
        "input.normalisation": {"kind": "fixed", "mean": MEAN, "std": STD},
        "training.stages": [{"epochs": 100, "size": size}],
        "training.batch": batch,
        "training.autocast": "none",
        "augmentation": {"kind": "torchvision", "rotation": 10.0, "scale": 0.1, "brightness": 0.1},
    }
    return load_recipe("pneumonia-resnet18").changed(changes)


def measure(report: Report, name: str, root: Path, paths: list[Path], options: argparse.Namespace) -> None:
    """Both speeds, and the ratio ours / plain."""
    ours = our_loop(name, root, paths, options.size, options.batch)
    plain = plain_loop(name, paths, options.size, options.batch)
    ours(), plain()  # the first epoch of each meets cold caches
    clock = time.perf_counter if options.clock == "wall" else time.process_time

    def speed(epoch: Callable[[], None]) -> float:
        begun = clock()
        epoch()
        return len(paths) / (clock() - begun)

    rounds = [(speed(ours), speed(plain)) for _ in range(options.rounds)]
    ratios = [a / b for a, b in rounds]
    speeds = [statistics.median(values) for values in zip(*rounds, strict=True)]
    report.fact(
        f"{name}, {options.size} px, batch {options.batch}, {options.threads} thread(s), {CLOCKS[options.clock]}",
        f"ours {speeds[0]:.2f} films/s, plain {speeds[1]:.2f}; rounds {', '.join(f'{r:.2f}' for r in ratios)}",
    )
    report.ratio(f"training/{name}", statistics.median(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="wall")
    parser.add_argument("--quick", action="store_true", help="one round at 96 px: does it run at all?")
    parser.add_argument("--no-readme", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.size, options.rounds, options.steps = 96, 1, 1
    torch.set_num_threads(options.threads)
    report = Report("quick" if options.quick else "full", quiet_share())
    with tempfile.TemporaryDirectory(prefix="cxr-training-") as folder:
        root = Path(folder)
        paths = [root / f"{i:03}.jpg" for i in range(options.steps * options.batch)]
        for i, path in enumerate(paths):
            path.write_bytes(encode_jpeg(phantom(i, height=FILM_PX, width=FILM_PX, opacity=i % 2 == 1)))
        for name in options.networks:
            measure(report, name, root, paths, options)
    if not options.no_readme and all(value == parser.get_default(name) for name, value in vars(options).items()):
        write_block("figures:training", report.markdown("python -m benchmarks.training"))
    report.print_ratios()


if __name__ == "__main__":
    main()
