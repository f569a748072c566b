"""Bundles made for measuring only. They judge nothing.

`densenet121`: the network that the field's papers use, with untrained weights; what serving costs does not depend on their values.
`identity`: one convolution of 0.1 ms in place of a network, so that what is left of a request is everything else.

Both take any picture (no gate) and one input: 224 px, ImageNet's normalisation. Their logits differ from film to film by far more than
an engine rounds, so that an answer that belongs to another film shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from app.bundle.input_spec import FixedNormalisation, InputSpec
from app.bundle.manifest import Manifest
from app.bundle.store import BundleRef, BundleStore, write_bundle
from app.decision import decide
from app.domain import InputStatistics, Radiograph
from app.drift import reference_arrays
from app.explain import pooled
from app.imaging.phantom import phantom
from app.inference.engine import OnnxRuntimeEngine
from app.preprocessing import prepare
from app.selftest import choose_phantoms, golden_cases
from app.settings import PROJECT_ROOT
from benchmarks.engines import CALIBRATION, variants

SIZE: Final = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUT: Final = InputSpec(
    size=SIZE,
    channels=3,
    resize="stretch",
    sixteen_bit="significant_bits",
    normalisation=FixedNormalisation(kind="fixed", mean=MEAN, std=STD),
)
SPREAD: Final = 0.05  # standard deviation of the logits over phantoms: 50 times what an fp32 answer may be off
FAR: Final = 10 * SPREAD  # the threshold: no rounding turns a decision, since decisions mean nothing here
_FILMS: Final = 24
_MEASURED: Final = 64  # phantoms that a variant is measured on
_GRID, _DEPTH = 7, 16
_STATISTICS = ("mean", "std", "aspect", "dark_fraction", "bright_fraction", "sharpness")


@dataclass(frozen=True)
class Network:
    """head: the tensors of `app.explain.Head`; features: C, h, w; state: tensors for torch under torchvision's names, empty without."""

    name: str
    architecture: str
    onnx: bytes
    head: Mapping[str, NDArray[np.float32]]
    features: tuple[int, int, int]
    state: Mapping[str, Any]


def identity_network(seed: int = 0) -> Network:
    """One 32 x 32 convolution to the grid of features, and a linear head."""
    rng = np.random.default_rng(seed)
    stem = (rng.standard_normal((_DEPTH, 3, 32, 32)) * 0.05).astype(np.float32)
    weight, bias = rng.standard_normal((1, _DEPTH)).astype(np.float32), np.zeros(1, np.float32)
    scale, shift = _to_spread(_logits(_identity_onnx(stem, weight, bias)))
    weight, bias = (weight * scale).astype(np.float32), np.array([shift], np.float32)
    head = {"weight": weight, "bias": bias}
    return Network("bench-identity", "identity", _identity_onnx(stem, weight, bias), head, (_DEPTH, _GRID, _GRID), {})


def densenet121_network(seed: int = 0) -> Network:
    """DenseNet-121 (Huang et al. 2017) as training would export it, its weights drawn from a seed. Needs the extra `train`."""
    import torch  # noqa: PLC0415 - only this bundle needs it

    from training.networks.network import build_network  # noqa: PLC0415 - as above
    from training.networks.onnx_export import head_tensors, onnx_bytes  # noqa: PLC0415
    from training.recipe import load_recipe  # noqa: PLC0415

    changes = {"network.architecture": "densenet121", "network.head": {"kind": "linear", "dropout": [0.0]}}
    part = load_recipe("pneumonia-resnet18").changed(changes).network
    network = build_network(part, outputs=1, channels=3, seed=seed).eval()
    scale, shift = _to_spread(_logits(onnx_bytes(network, SIZE, 3)))
    with torch.no_grad():
        head = network.head
        assert isinstance(head, torch.nn.Linear)
        head.bias.mul_(scale).add_(shift)
        head.weight.mul_(scale)
    state = {name.removeprefix("body."): values for name, values in network.state_dict().items()}
    state = {name.replace("head.", "classifier."): values for name, values in state.items()}
    return Network(
        "bench-densenet121",
        "densenet121",
        onnx_bytes(network, SIZE, 3),
        head_tensors(network),
        (1024, _GRID, _GRID),
        state,
    )


def kept(root: Path, make: Callable[[], Network], *, with_variants: bool = False) -> BundleRef:
    """The bundle that lies in `root` from an earlier run, else that of this network, as `write` makes it."""
    found = BundleStore(root).latest() if (root / "latest").exists() else None
    return found or write(root, make(), with_variants=with_variants)


def write(root: Path, network: Network, *, with_variants: bool = False) -> BundleRef:
    """Write the bundle of a network to `root`, verified, and make it the latest there.

    Args:
        with_variants: also what else this machine can run it with; a few minutes, and the extra `train`.
    """
    engine, fields = OnnxRuntimeEngine(network.onnx), _fields(network)
    manifest = Manifest.model_validate({**fields, "files": {}})
    int8 = None
    if with_variants:
        made, int8 = variants(manifest, network.onnx, *_seen())
        manifest = Manifest.model_validate(
            {**fields, "variants": [v.model_dump(mode="json") for v in made], "files": {}}
        )
    candidates = [phantom(1_000 + i, height=256, width=224, opacity=bool(i % 2)) for i in range(12)]
    ref = write_bundle(
        root,
        manifest.model_dump(mode="json"),
        network=network.onnx,
        head=network.head,
        reference=_reference(manifest, engine),
        golden=golden_cases(manifest, engine, choose_phantoms(manifest, engine, candidates, 4)),
        model_card=f"# {network.name}\n\nFor measuring speed only. Judges nothing.\n",
        int8=int8,
    )
    (root / "latest").write_text(f"{ref}\n", encoding="ascii")
    return ref


def _seen() -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """Phantoms as the network sees them, and which have an opacity."""
    sick = np.arange(CALIBRATION + _MEASURED) % 2 == 1
    pictures = [phantom(4_000 + i, height=256, width=224, opacity=bool(s)) for i, s in enumerate(sick)]
    return [prepare(_film(p), INPUT).tensor for p in pictures], sick


def write_competitors_files(folder: Path, network: Network) -> None:
    """What the other servers load: the same ONNX file, and the same weights for eager PyTorch."""
    import torch  # noqa: PLC0415 - only the comparison needs it

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.onnx").write_bytes(network.onnx)
    torch.save(dict(network.state), folder / "weights.pt")


def _identity_onnx(stem: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]) -> bytes:
    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["c"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Relu", ["c"], ["features"]),
        helper.make_node("ReduceMean", ["features"], ["gap"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["gap", "weight", "bias"], ["logits"], transB=1),
    ]

    def value(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

    graph = helper.make_graph(
        nodes,
        "identity",
        [value("image", 3, SIZE, SIZE)],
        [value("logits", 1), value("features", _DEPTH, _GRID, _GRID)],
        [numpy_helper.from_array(array, name) for name, array in (("stem", stem), ("weight", weight), ("bias", bias))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def _fields(network: Network) -> dict[str, Any]:
    """Every field of the manifest but `files`: those of the bundle that ships, less what speaks of its weights."""
    store = BundleStore(PROJECT_ROOT / "model_bundles")
    ref = store.latest()
    if ref is None:
        raise FileNotFoundError("no bundle ships in model_bundles/")
    fields = store.read_manifest(ref).model_dump(mode="json")
    for name in ("files", "promotion", "variants"):
        fields.pop(name, None)
    return fields | {
        "name": network.name,
        "version": "1.0.0",
        "task": "binary",
        "classes": ["normal", "pneumonia"],
        "input": INPUT.model_dump(mode="json"),
        "network": {
            "architecture": network.architecture,
            "logits": 1,
            "features": list(network.features),
            "explanation": "gap_linear",
        },
        "calibration": {"method": "none"},
        "calibration_chosen_by": "set by hand, for measuring speed",
        "operating_points": [
            {"name": "screening", "rule": "threshold", "target": "by hand", "thresholds": {"pneumonia": FAR}}
        ],
        "default_operating_point": "screening",
        "gate": None,
        "metrics": [],
        "research_only": True,
        "tolerances": {"fp32": 1e-3},
    }


def _film(pixels: NDArray[np.uint8]) -> Radiograph:
    return Radiograph(pixels=pixels, sha256="0" * 64, format="png")


def _logits(network: bytes) -> NDArray[np.float64]:
    """Of a dozen phantoms, float64 [12]."""
    engine = OnnxRuntimeEngine(network)
    pictures = [phantom(2_000 + i, height=256, width=224) for i in range(12)]
    return np.array([float(engine.run(prepare(_film(p), INPUT).tensor).logits[0]) for p in pictures])


def _to_spread(logits: NDArray[np.float64]) -> tuple[float, float]:
    """Factor and offset that give logits mean 0 and standard deviation `SPREAD`."""
    scale = SPREAD / float(logits.std())
    return scale, -float(logits.mean()) * scale


def _reference(manifest: Manifest, engine: OnnxRuntimeEngine) -> dict[str, NDArray[Any]]:
    """The drift baseline, from phantoms."""
    point = manifest.operating_point(None)
    assert point is not None
    seen: list[InputStatistics] = []
    features, confidences, labels = [], [], []
    for i in range(_FILMS):
        prepared = prepare(_film(phantom(3_000 + i, height=256, width=224, opacity=bool(i % 2))), manifest.input)
        output = engine.run(prepared.tensor)
        decision = decide(output.logits, manifest, point)
        seen.append(prepared.statistics)
        features.append(pooled(output.features))
        confidences.append(decision.confidence)
        labels.append(decision.label)
    statistics = {name: np.array([getattr(s, name) for s in seen]) for name in _STATISTICS}
    statistics["confidence"] = np.array(confidences, np.float64)
    return reference_arrays(statistics, labels, manifest.classes, np.stack(features), seed=0)
