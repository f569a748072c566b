from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from app.errors import ConfigurationError
from tests.support.networks import CLASSIFIERS, film_batch, see_batch
from training.networks.network import TriageNetwork, build_network
from training.networks.spec import Architecture, NetworkPart, WeightsPart
from training.networks.torchvision_compat import import_torchvision
from training.networks.weights import body_bytes, load_body, load_weights

Save = Callable[[Mapping[str, Tensor], Path], None]
SAVERS: dict[str, Save] = {
    "w.safetensors": lambda state, path: safetensors.torch.save_file(dict(state), path),
    "w.pt": torch.save,
    "w.pth": torch.save,
}


def _network(architecture: Architecture = "tiny_cnn", *, channels: int = 1, seed: int = 0) -> TriageNetwork:
    return build_network(NetworkPart(architecture=architecture), outputs=2, channels=channels, seed=seed)


def _code(error: pytest.ExceptionInfo[ConfigurationError]) -> str:
    return error.value.code


@pytest.mark.parametrize("architecture", [name for name, classifier in CLASSIFIERS.items() if classifier])
def test_a_torchvision_file_gives_torchvisions_features(architecture: Architecture, tmp_path: Path) -> None:
    """As published: all 1,000 classes, under the library's own names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole: nn.Module = getattr(import_torchvision().models, architecture)(weights=None)
    see_batch(whole, film_batch(8, channels=3))
    torch.save(whole.state_dict(), tmp_path / "published.pth")
    image = film_batch(2, channels=3, seed=1)
    network = _network(architecture, channels=3, seed=5)
    head = {name: value.clone() for name, value in network.head.state_dict().items()}
    load_weights(network, WeightsPart(file="published.pth"), tmp_path)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in network.body.state_dict().items())
    assert all(torch.equal(value, head[name]) for name, value in network.head.state_dict().items())
    gray = _network(architecture, channels=1, seed=5)
    load_weights(gray, WeightsPart(file="published.pth"), tmp_path)
    with torch.inference_mode():
        one = image[:, :1]
        wanted = network.eval().body(one.expand(-1, 3, -1, -1))
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(gray.eval().body(one), wanted, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("file", SAVERS)
def test_formats(file: str, tmp_path: Path) -> None:
    given, network = _network(seed=1), _network(seed=2)
    SAVERS[file](given.body.state_dict(), tmp_path / file)
    load_weights(network, WeightsPart(file=file), tmp_path)
    assert all(torch.equal(v, given.body.state_dict()[k]) for k, v in network.body.state_dict().items())
    absolute = _network(seed=3)
    load_weights(absolute, WeightsPart(file=str(tmp_path / file)), Path("/nowhere"))
    assert torch.equal(next(absolute.body.parameters()), next(given.body.parameters()))


def test_a_runs_own_weights_fit(tmp_path: Path) -> None:
    given, network = _network(seed=1), _network(seed=2)
    torch.save(given.state_dict(), tmp_path / "weights.pt")
    load_weights(network, WeightsPart(file="weights.pt"), tmp_path)
    assert torch.equal(next(network.body.parameters()), next(given.body.parameters()))


def test_names_of_old_densenet_files_and_files_without_counters_fit(tmp_path: Path) -> None:
    """The published DenseNets of 2017: denselayer1.norm.1 for denselayer1.norm1, and no num_batches_tracked anywhere."""
    given = _network("densenet121", seed=1)
    old: dict[str, Tensor] = {}
    for name, value in given.body.state_dict().items():
        head, _, tail = name.rpartition(".")
        if "denselayer" in name:
            head = f"{head[:-1]}.{head[-1]}"
        if tail != "num_batches_tracked":
            old[f"{head}.{tail}"] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    network = _network("densenet121", seed=2)
    load_weights(network, WeightsPart(file="old.pth"), tmp_path)
    assert all(torch.equal(v, given.body.state_dict()[k]) for k, v in network.body.state_dict().items())


def test_half_precision_is_widened(tmp_path: Path) -> None:
    given, network = _network(seed=1), _network(seed=2)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in given.body.state_dict().items()}
    safetensors.torch.save_file(halves, tmp_path / "w.safetensors")
    load_weights(network, WeightsPart(file="w.safetensors"), tmp_path)
    first = next(network.body.parameters())
    assert first.dtype == torch.float32
    assert torch.equal(first, next(given.body.parameters()).half().float())


def test_all_faults_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = dict(_network(seed=1).body.state_dict())
    del state["0.weight"]
    state["4.weight"] = torch.zeros(16, 8, 5, 5)
    state["extra.weight"] = torch.zeros(1)
    state["9.bias"] = torch.full((16,), float("nan"))
    torch.save(state, tmp_path / "w.pt")
    network = _network(seed=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ConfigurationError) as error:
        load_weights(network, WeightsPart(file="w.pt"), tmp_path)
    assert _code(error) == "weights_mismatch"
    told = str(error.value)
    assert "1 missing: 0.weight" in told
    assert "1 unexpected: extra.weight" in told
    assert "1 unfitting: 4.weight [16, 8, 5, 5] where [16, 8, 3, 3] fits" in told
    assert "1 not finite: 9.bias" in told
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_only_what_is_named_may_be_left_out(tmp_path: Path) -> None:
    state = {**_network(seed=1).body.state_dict(), "classifier.weight": torch.zeros(3), "op_threshs": torch.zeros(3)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigurationError, match="1 unexpected: op_threshs"):
        load_weights(_network(), WeightsPart(file="w.pt"), tmp_path)
    load_weights(_network(), WeightsPart(file="w.pt", drop=("classifier.", "op_threshs")), tmp_path)
    with pytest.raises(ConfigurationError, match=r"missing: 0\.weight"):  # a body's tensor cannot be dropped
        load_weights(_network(), WeightsPart(file="w.pt", drop=("classifier.", "op_threshs", "0.")), tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(_network("tiny_cnn").body.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ConfigurationError, match="does not fit cnn3") as error:
        load_weights(_network("cnn3"), WeightsPart(file="w.pt"), tmp_path)
    assert _code(error) == "weights_mismatch"


def test_the_digest_is_checked(tmp_path: Path) -> None:
    torch.save(_network(seed=1).body.state_dict(), tmp_path / "w.pt")
    right = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    load_weights(_network(), WeightsPart(file="w.pt", sha256=right.upper()), tmp_path)
    with pytest.raises(ConfigurationError) as error:
        load_weights(_network(), WeightsPart(file="w.pt", sha256="0" * 64), tmp_path)
    assert _code(error) == "weights_digest"


class _Harmful:
    """Pickled, it would create the file when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]  # as an attacker would


def test_files_that_are_no_state_dict(tmp_path: Path) -> None:
    state = _network().body.state_dict()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    torch.save(_Harmful(str(tmp_path / "harm")), tmp_path / "code.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    for name in ("rubbish.pt", "rubbish.safetensors", "empty.safetensors", "w.h5"):
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"no tensors here")
    names = ("nested.pt", "code.pt", "list.pt", "rubbish.pt", "rubbish.safetensors", "empty.safetensors", "w.h5")
    for name in names:
        with pytest.raises(ConfigurationError) as error:
            load_weights(_network(), WeightsPart(file=name), tmp_path)
        assert (name, _code(error)) == (name, "weights_unreadable")
    assert not (tmp_path / "harm").exists()
    with pytest.raises(ConfigurationError, match="save the state dict alone"):
        load_weights(_network(), WeightsPart(file="nested.pt"), tmp_path)
    with pytest.raises(ConfigurationError) as error:
        load_weights(_network(), WeightsPart(file="missing.pt"), tmp_path)
    assert _code(error) == "weights_missing"


def test_a_body_goes_round(tmp_path: Path) -> None:
    given, network = _network("resnet18", seed=1), _network("resnet18", seed=2)
    given.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    (tmp_path / "body.safetensors").write_bytes(body_bytes(given))
    load_body(network, tmp_path / "body.safetensors")
    assert all(torch.equal(v, given.body.state_dict()[k]) for k, v in network.body.state_dict().items())
    with pytest.raises(ConfigurationError, match="does not fit"):
        load_body(_network("resnet18", channels=3), tmp_path / "body.safetensors")
