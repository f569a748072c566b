"""Reading one bundle's folder: each file once, bounded, through descriptors, so that what is checked is what is used.

Nothing follows a link below the root, waits on a pipe, or opens a path twice. The root itself may be a link or a mount.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from app.errors import BundleError

MANIFEST = "manifest.json"
NETWORK = "network.onnx"
NETWORK_INT8 = "network-int8.onnx"
HEAD = "head.safetensors"
GATE_NETWORK = "gate.onnx"
GATE = "gate.safetensors"
REFERENCE = "reference.npz"
GOLDEN = "golden.npz"
MODEL_CARD = "MODEL_CARD.md"

# The only names a bundle may hold, and the most bytes each may have.
MAX_BYTES: Mapping[str, int] = MappingProxyType(
    {
        MANIFEST: 1 << 20,
        NETWORK: 512 << 20,
        NETWORK_INT8: 512 << 20,
        HEAD: 64 << 20,
        GATE_NETWORK: 16 << 20,
        GATE: 16 << 20,
        REFERENCE: 8 << 20,
        GOLDEN: 64 << 20,
        MODEL_CARD: 1 << 20,
    }
)

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class BundleFolder:
    """An open bundle folder. Use `open_folder`."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    def names(self) -> frozenset[str]:
        """Every entry of the folder, hidden ones included.

        Raises:
            BundleError: `extra_file` for an entry that no bundle has.
        """
        names = frozenset(os.listdir(self._descriptor))  # noqa: PTH208 (a descriptor, not a path)
        extra = sorted(names - set(MAX_BYTES))
        if extra:
            raise BundleError("extra_file", f"{self._name} holds {extra[0][:80]!r}, which is no part of a bundle")
        return names

    def read(self, name: str) -> bytes:
        """The bytes of one file, read once.

        Raises:
            BundleError: `missing_file`, `not_a_regular_file` (a link, pipe, folder, device), `oversized_file`, `unreadable_file`.
        """
        limit = MAX_BYTES[name]
        try:
            descriptor = os.open(name, _OPEN, dir_fd=self._descriptor)
        except FileNotFoundError as error:
            raise BundleError("missing_file", f"{self._name} has no {name}") from error
        except OSError as error:
            if _is_link(name, self._descriptor):
                raise _not_regular(self._name, name) from error
            raise BundleError("unreadable_file", f"{self._name}: {name}: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_regular(self._name, name)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise BundleError("unreadable_file", f"{self._name}: {name}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        if len(data) > limit:
            raise BundleError("oversized_file", f"{self._name}: {name} is larger than {limit} bytes")
        return data


@contextmanager
def open_folder(root: Path, *parts: str) -> Iterator[BundleFolder]:
    """Open root/part/part..., refusing links below the root.

    Raises:
        BundleError: `bundle_not_found`; `not_a_regular_file` where a part is a link.
    """
    where = "/".join(parts)
    descriptors: list[int] = []
    try:
        try:
            descriptors.append(os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
            for part in parts:
                descriptors.append(os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=descriptors[-1]))
        except OSError as error:
            if descriptors and _is_link(parts[len(descriptors) - 1], descriptors[-1]):
                raise BundleError("not_a_regular_file", f"{where} is reached through a link") from error
            raise BundleError("bundle_not_found", f"there is no bundle {where}: {error.strerror}") from error
        yield BundleFolder(descriptors[-1], where)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _not_regular(bundle: str, name: str) -> BundleError:
    return BundleError("not_a_regular_file", f"{bundle}: {name} is a link, a folder, a pipe or a device, not a file")
