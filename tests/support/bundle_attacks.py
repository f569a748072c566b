"""Hostile and broken bundles: each attack takes a sound tiny bundle apart in one way and names the code it must be refused by.

Attacks on content seal the bundle again (sizes and hashes in the manifest are made right), so that only the check they are aimed at
can stop them.
"""

from __future__ import annotations

from dataclasses import replace

from tests.support.attacks_on_files import ON_FILES
from tests.support.attacks_on_gate import ON_GATE
from tests.support.attacks_on_network import ON_NETWORK
from tests.support.attacks_on_tensors import ON_TENSORS
from tests.support.attacks_on_wire import ON_WIRE
from tests.support.bundle_victim import GATE_NETWORK, Attack

ATTACKS: tuple[Attack, ...] = tuple(
    attack for part in (ON_FILES, ON_TENSORS, ON_NETWORK, ON_WIRE) for attack in part.attacks
)

# on a bundle with a gate: those on its own files, and everything that stops a network, aimed at the gate's
GATE_ATTACKS: tuple[Attack, ...] = (
    *(replace(attack, on=GATE_NETWORK) for attack in ON_GATE.attacks),
    *(
        replace(attack, name=f"gate: {attack.name}", on=GATE_NETWORK)
        for part in (ON_NETWORK, ON_WIRE)
        for attack in part.attacks
        if attack.by == "store"
    ),
)
