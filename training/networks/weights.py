"""A body's weights from a file: every tensor must fit, and everything that does not is named at once.

Files hold a plain state dict, as `.safetensors` or `.pt` / `.pth` (read with weights_only: no code in a file is run). Accepted are

- a whole torchvision model's state dict, or its body's (`conv1.weight`, `features.conv0.weight`, ...). Files from before
  torchvision 0.3 fit too: DenseNet's old names, and batch statistics without `num_batches_tracked`, which nothing reads;
- the `weights.pt` of a run of this package (`body.` and `head.`).

The classifier is left out by `drop`; the head always starts anew.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from app.errors import ConfigurationError
from training.networks.network import TriageNetwork, first_convolution
from training.networks.spec import WeightsPart

_COUNTER = "num_batches_tracked"
# torchvision.models.densenet._load_state_dict: the published files call denselayer1.norm1 "denselayer1.norm.1"
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.[a-z_]+)$")


def load_weights(network: TriageNetwork, part: WeightsPart, root: Path) -> None:
    """Fill the body from a file, in place.

    Args:
        root: the data folder, below which a relative `part.file` lies.

    Raises:
        ConfigurationError: `weights_missing`, `weights_unreadable`, `weights_digest` (not the file that the recipe names), or
            `weights_mismatch` with all missing, unexpected and unfitting tensors.
    """
    path = root / part.file
    _fill(network, _read(path, part.sha256), part.drop, path.name)


def load_body(network: TriageNetwork, path: Path) -> None:
    """Fill the body from a file of `save_body`, in place: every tensor of the body and no other. Raises as `load_weights`."""
    _fill(network, _read(path, None), (), path.name)


def body_bytes(network: TriageNetwork) -> bytes:
    """The body as `.safetensors`, under torchvision's names."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.body.state_dict().items()}
    return bytes(safetensors.torch.save(state))


def _read(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """The tensors of a file, from exactly the bytes that were hashed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError("weights_missing", f"{path} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise ConfigurationError("weights_digest", f"{path.name} has the SHA-256 {found}, the recipe names {sha256}")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load(data)
        elif path.suffix in {".pt", ".pth"}:
            content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        else:
            raise ConfigurationError("weights_unreadable", f"{path.name}: wanted .safetensors, .pt or .pth")
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError("weights_unreadable", f"{path.name} is not a file of tensors: {reason}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        held = sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
        raise ConfigurationError(
            "weights_unreadable", f"{path.name} holds {held}, not tensors by name: save the state dict alone"
        )
    return dict(content)


def _fill(network: TriageNetwork, tensors: dict[str, Tensor], drop: Sequence[str], file: str) -> None:
    wanted = network.body.state_dict()
    given = {_name(network, key): value for key, value in tensors.items() if not key.startswith(tuple(drop))}
    first = f"{first_convolution(network.body)[0]}.weight"
    if first in given and given[first].ndim == 4 and wanted[first].shape[1] == 1 and given[first].shape[1] == 3:
        given[first] = given[first].sum(dim=1, keepdim=True)  # the same answer as for three equal channels
    missing = sorted(k for k in wanted if k not in given and not k.endswith(_COUNTER))
    unexpected = sorted(set(given) - set(wanted))
    unfitting = [
        f"{k} {list(v.shape)} where {list(wanted[k].shape)} fits"
        for k, v in sorted(given.items())
        if k in wanted and v.shape != wanted[k].shape
    ]
    spoilt = sorted(k for k, v in given.items() if v.dtype.is_floating_point and not torch.isfinite(v).all())
    faults = {"missing": missing, "unexpected": unexpected, "unfitting": unfitting, "not finite": spoilt}
    if any(faults.values()):
        told = "; ".join(f"{len(names)} {fault}: {', '.join(names)}" for fault, names in faults.items() if names)
        hint = "leave a foreign classifier out with `drop`" if unexpected else "is it another architecture?"
        raise ConfigurationError(
            "weights_mismatch", f"{file} does not fit {network.part.architecture}: {told} ({hint})"
        )
    with torch.no_grad():
        for key, value in wanted.items():
            if key in given:
                value.copy_(given[key])


def _name(network: TriageNetwork, key: str) -> str:
    """The body's name of a tensor: without a run's prefix and without DenseNet's old dots."""
    key = key.removeprefix("body.")
    return _OLD_DENSENET.sub(r"\1\2", key) if network.part.architecture == "densenet121" else key
