"""Attacks on the files of a gate and on its part of the manifest; the victim is a bundle that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from tests.support.attacks_on_files import edit_manifest
from tests.support.bundle_victim import GATE, GATE_NETWORK, GOLDEN, MANIFEST, Apply, AttackList, Victim

ON_GATE = AttackList()
_add = ON_GATE.add
Tensors = dict[str, NDArray[Any]]


def _change(change: Callable[[Tensors], Tensors]) -> Apply:
    return lambda v: v.write(GATE, save_tensors(change(load_tensors(v.read(GATE)))))


def _one(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Apply:
    return _change(lambda t: {**t, name: np.ascontiguousarray(change(t[name]))})


def _not_finite(values: NDArray[Any]) -> NDArray[Any]:
    changed = values.copy()
    changed.flat[-1] = np.inf
    return changed


def _flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# the files


def _missing(name: str) -> Apply:
    return lambda v: (v.path / name).unlink()


def _one_bit(name: str) -> Apply:
    return lambda v: v.write(name, _flip(v.read(name)), seal=False)


def _linked(name: str) -> Apply:
    def apply(v: Victim) -> None:
        (v.path / name).rename(v.root / "elsewhere")
        (v.path / name).symlink_to(v.root / "elsewhere")

    return apply


def _not_listed(name: str) -> Apply:
    def apply(v: Victim) -> None:
        manifest = v.manifest()
        del manifest["files"][name]
        v.write_manifest(manifest)

    return apply


for _name in (GATE_NETWORK, GATE):
    _add(f"missing {_name}", "missing_file", _missing(_name))
    _add(f"link in place of {_name}", "not_a_regular_file", _linked(_name))
    _add(f"one bit of {_name}", "changed_file", _one_bit(_name))
    _add(f"{_name} not listed", "invalid_manifest", _not_listed(_name))
    _add(f"{_name} over its size", "oversized_file", edit_manifest(f"files.{_name.replace('.', '/')}.size", 1 << 30))


@ON_GATE.named("extra_file")
def gate_files_without_a_gate(v: Victim) -> None:
    manifest = v.manifest()
    manifest["gate"] = None
    for name in (GATE_NETWORK, GATE):
        del manifest["files"][name]
    v.write_manifest(manifest)


@ON_GATE.named("invalid_manifest")
def listed_gate_files_without_a_gate(v: Victim) -> None:
    manifest = v.manifest()
    manifest["gate"]["picture"] = None
    v.write_manifest(manifest)


@ON_GATE.named("invalid_manifest")
def gate_in_a_manifest_of_format_1(v: Victim) -> None:
    edit_manifest("schema_version", 1)(v)


@ON_GATE.named("malformed_tensors")
def goldens_without_the_gate(v: Victim) -> None:
    v.write_arrays(GOLDEN, {k: a for k, a in v.arrays(GOLDEN).items() if not k.startswith("gate_")})


@ON_GATE.named("malformed_tensors")
def golden_gate_logits_of_eight_poses(v: Victim) -> None:
    arrays = v.arrays(GOLDEN)
    v.write_arrays(GOLDEN, {**arrays, "gate_logits_0": arrays["gate_logits_0"][:8]})


# the manifest


def _text(old: str, new: str) -> Apply:
    def apply(v: Victim) -> None:
        text = v.read(MANIFEST).decode()
        assert old in text
        v.write(MANIFEST, text.replace(old, new, 1).encode(), seal=False)

    return apply


def _without_action(v: Victim) -> None:
    manifest = v.manifest()
    del manifest["gate"]["actions"]["rotated_image"]
    v.write_manifest(manifest)


_BAD = "invalid_manifest"
_PICTURE = "gate.picture"
_add("a code without an action", _BAD, _without_action)
_add("an action for an unknown code", _BAD, edit_manifest("gate.actions.blank_image", "accept"))
_add("an unknown action", _BAD, edit_manifest("gate.actions.lateral_view", "ask"))
_add("an unknown key of the gate", _BAD, edit_manifest("gate.script", "x"))
_add("no modality is accepted", _BAD, edit_manifest("gate.header.modalities", []))
_add("a modality twice", _BAD, edit_manifest("gate.header.film_modalities", ["CR"]))
_add("a header word in small letters", _BAD, edit_manifest("gate.header.views", ["pa"]))
_add("poses without upright first", _BAD, edit_manifest(f"{_PICTURE}.poses", ["inverted", "upright"]))
_add("a pose twice", _BAD, edit_manifest(f"{_PICTURE}.poses", ["upright", "inverted", "inverted"]))
_add("a pose of no name", _BAD, edit_manifest(f"{_PICTURE}.poses", ["upright", "sideways"]))
_add("a gate of three channels", _BAD, edit_manifest(f"{_PICTURE}.input.channels", 3))
_add("a gate of 256 px", _BAD, edit_manifest(f"{_PICTURE}.input.size", 256))
_add("a gate temperature of zero", _BAD, edit_manifest(f"{_PICTURE}.temperature", 0.0))
_add("a gate that refuses everything", _BAD, edit_manifest(f"{_PICTURE}.distance_above", 0.0))
_add(
    "a gate that refuses nothing", "unreadable_manifest", _text('"distance_above": ', '"distance_above": 1e999, "x": ')
)
_add("a pose probability of two", _BAD, edit_manifest(f"{_PICTURE}.pose_probability_at_least", 2.0))
_add("a false-refusal rate of nothing", _BAD, edit_manifest(f"{_PICTURE}.false_refusal.0.n", 0))

# the tensors

_MISMATCH = "gate_mismatch"
_add("gate tensors are no safetensors", "malformed_tensors", lambda v: v.write(GATE, b"\x80\x04K\x01."))
_add("gate tensors of float64", "malformed_tensors", _change(lambda t: {k: a.astype(np.float64) for k, a in t.items()}))
_add("no gate tensors", _MISMATCH, _change(lambda _: {}))
_add("one gate tensor more", _MISMATCH, _change(lambda t: {**t, "extra": t["network_mean"]}))
_add("one gate tensor less", _MISMATCH, _change(lambda t: {k: a for k, a in t.items() if k != "network_mean"}))
for _name in ("pose_means", "pose_whitening", "network_mean", "network_whitening"):
    _add(f"{_name} that is not finite", _MISMATCH, _one(_name, _not_finite))
    _add(f"{_name} of fewer channels", _MISMATCH, _one(_name, lambda a: a[..., :-1]))
    _add(f"{_name} as one number", _MISMATCH, _one(_name, lambda _: np.zeros((), np.float32)))
    _add(f"{_name} with an axis more", _MISMATCH, _one(_name, lambda a: a[..., None]))
_add("means of fewer poses", _MISMATCH, _one("pose_means", lambda a: a[:-1]))
_add("whitening to more dimensions", _MISMATCH, _one("pose_whitening", lambda a: np.repeat(a, 2, axis=0)))
_add("whitening to no dimension", _MISMATCH, _one("network_whitening", lambda a: a[:0]))


# the network, besides the attacks that every network is put through


def _shape(name: str, shape: list[Any]) -> Apply:
    def apply(v: Victim) -> None:
        model = v.model()
        for values in (model.graph.input, model.graph.output):
            for value in values:
                if value.name == name:
                    value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        v.write_model(model)

    return apply


_add("gate network of eight poses", "wrong_inputs_outputs", _shape("logits", ["batch", 8]))
_add("gate network of 96 px", "wrong_inputs_outputs", _shape("image", ["batch", 1, 96, 96]))
_add("gate network with other features", "wrong_inputs_outputs", _shape("features", ["batch", 16, 4, 4]))


def other_gate_weights(v: Victim) -> None:
    """Sound and sealed, but not the network that was exported."""
    model = v.model()
    for initializer in model.graph.initializer:
        if initializer.name == "head0.bias":
            initializer.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(initializer) + np.float32(0.5), "head0.bias")
            )
    v.write_model(model)


def _shifted(values: NDArray[Any]) -> NDArray[Any]:
    changed = values.copy()
    changed[-1] += 0.5 * max(1.0, abs(changed[-1]))
    return changed


def _golden_shift(name: str) -> Apply:
    return lambda v: v.write_arrays(GOLDEN, {**v.arrays(GOLDEN), name: _shifted(v.arrays(GOLDEN)[name])})


_add("other gate weights", "golden_mismatch", other_gate_weights, by="run")
_add("golden gate features of another network", "golden_mismatch", _golden_shift("gate_pooled_1"), by="run")
_add("golden gate logits of another network", "golden_mismatch", _golden_shift("gate_logits_2"), by="run")
