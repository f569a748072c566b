"""The other servers' environment: made once by the command, beside the checkout's own, and used again while its requirements stay."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from app.settings import PROJECT_ROOT

HERE: Final = Path(__file__).resolve().parent
FOLDER: Final = PROJECT_ROOT / ".venv" / "competitors"  # git-ignored, and gone with `make clean`


def python() -> Path:
    """The interpreter of an environment that holds requirements.txt; made if there is none, which takes minutes and 1.4 GB.

    Raises:
        subprocess.CalledProcessError: the installation failed; pip has said why.
    """
    requirements = HERE / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    mark, binary = FOLDER / "requirements.sha256", FOLDER / "bin" / "python"
    if mark.exists() and mark.read_text() == wanted:
        return binary
    print(f"installing the other servers into {FOLDER.relative_to(PROJECT_ROOT)} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
    subprocess.run([str(binary), "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
    mark.write_text(wanted)
    return binary
