from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from tests.training.phantom_data import write_data
from training.judging.reduced import find_pairs, has_originals
from training.places import DEFAULT_DATA


def test_every_original_is_paired_with_its_copy(tmp_path: Path) -> None:
    data = write_data(tmp_path, patients=4)
    assert find_pairs(data) == [
        ("originals/kermany/kermany_hires-0_0.png", "kermany_hires/train/kermany_hires-0_0.jpg"),
        ("originals/kermany/kermany_hires-1_1.png", "kermany_hires/train/kermany_hires-1_1.jpg"),
    ]


def test_an_original_without_a_copy_is_an_error_not_a_gap(tmp_path: Path) -> None:
    data = write_data(tmp_path, patients=4)
    manifest = data / "kermany_hires" / "manifest.csv"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(line for line in lines if "kermany_hires-1_1" not in line) + "\n")
    with pytest.raises(ConfigurationError, match="kermany_hires-1_1"):
        find_pairs(data)


def test_a_folder_without_originals_of_ours_is_an_error_with_its_name(tmp_path: Path) -> None:
    data = write_data(tmp_path, patients=4)
    manifest = data / "originals" / "manifest.csv"
    assert has_originals(data)
    header, *rows = manifest.read_text().splitlines()
    for text in (None, "path,label\na/1.png,normal\n", ""):
        manifest.unlink() if text is None else manifest.write_text(text)
        assert not has_originals(data)
        with pytest.raises(ConfigurationError, match=r"no originals/manifest\.csv with columns"):
            find_pairs(data)
    manifest.write_text("\n".join([header, *(row.replace("normal", "not_applicable") for row in rows[:1])]) + "\n")
    assert has_originals(data)
    with pytest.raises(ConfigurationError, match="names no film"):
        find_pairs(data)


@pytest.mark.real_data
def test_the_real_pairs() -> None:
    """46 originals, five of them not frontal chest films."""
    if not DEFAULT_DATA.is_dir():
        pytest.skip("../shared/data is not here")
    pairs = find_pairs(DEFAULT_DATA)
    assert len(pairs) == 41
    assert all(Path(original).stem == Path(reduced).stem for original, reduced in pairs)
