"""Every hostile or broken bundle is refused, by the code that says why, before anything of it is used."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from app.bundle.gate_spec import Action
from app.bundle.store import BundleRef, BundleStore
from app.errors import BundleError
from tests.support.bundle_attacks import ATTACKS, GATE_ATTACKS
from tests.support.bundle_victim import GATE_NETWORK, NETWORK, Attack, Victim, load
from tests.support.tiny_bundle import make_tiny_bundle


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_refused_by_its_code(attack: Attack, tmp_path: Path) -> None:
    _refused(attack, tmp_path, make_tiny_bundle(tmp_path))


@pytest.mark.parametrize("attack", GATE_ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_on_the_gate_is_refused_by_its_code(attack: Attack, tmp_path: Path) -> None:
    _refused(attack, tmp_path, make_tiny_bundle(tmp_path, gate={}))


def _refused(attack: Attack, tmp_path: Path, ref: BundleRef) -> None:
    attack.apply(Victim(tmp_path, ref, attack.on))
    look = BundleStore(tmp_path).verify
    if attack.by == "run":
        look(ref)  # nothing to be seen without running it
        look = partial(load, tmp_path)
    with pytest.raises(BundleError) as refused:
        look(ref)
    assert refused.value.code == attack.code, refused.value
    assert len(str(refused.value)) < 2_000


@pytest.mark.parametrize("gate", [None, {}])
def test_the_bundle_that_is_attacked_is_sound(tmp_path: Path, gate: dict[str, Action] | None) -> None:
    ref = make_tiny_bundle(tmp_path, gate=gate)
    assert load(tmp_path, ref).ref == BundleRef("tiny", "1.0.0")


def test_sealing_alone_breaks_nothing(tmp_path: Path) -> None:
    """The attacks' own way of rewriting files is no reason for a refusal."""
    ref = make_tiny_bundle(tmp_path, gate={})
    victim = Victim(tmp_path, ref, GATE_NETWORK)
    victim.write_model(victim.model())
    victim.network = NETWORK
    victim.write_model(victim.model())
    victim.write_arrays("golden.npz", victim.arrays("golden.npz"))
    victim.write_arrays("reference.npz", victim.arrays("reference.npz"))
    assert load(tmp_path, ref).manifest.name == "tiny"


def test_attacks_have_names_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 30
    assert len({attack.name for attack in GATE_ATTACKS}) == len(GATE_ATTACKS) >= 30
