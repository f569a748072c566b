"""Hostile and broken bundles: each attack takes a sound tiny bundle apart in one way and names the code it must be refused by.

Attacks on content seal the bundle again (sizes and hashes in the manifest are made right), so that only the check they are aimed at
can stop them.
"""

from __future__ import annotations

from tests.support.attacks_on_files import ON_FILES
from tests.support.attacks_on_network import ON_NETWORK
from tests.support.attacks_on_tensors import ON_TENSORS
from tests.support.attacks_on_wire import ON_WIRE
from tests.support.bundle_victim import Attack

ATTACKS: tuple[Attack, ...] = tuple(
    attack for part in (ON_FILES, ON_TENSORS, ON_NETWORK, ON_WIRE) for attack in part.attacks
)
