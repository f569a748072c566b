"""What is known about the folders of films: whom they show, who must be named, what may be done with weights made from them.

Licences of single films come from the manifests; this table adds what the data folder's README says in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.bundle.manifest import IntendedUse, Licence
from app.errors import ConfigurationError
from training.data.films import Film

COMMERCIAL = frozenset({"CC BY 4.0", "CC BY 3.0", "NIH Clinical Center: no restrictions on use, attribution required"})


@dataclass(frozen=True)
class Source:
    """One folder. `population` completes "radiographs of ..."; `views` as DICOM writes them."""

    attribution: str
    population: str
    age_years: tuple[float, float] | None
    views: tuple[str, ...]


_KERMANY = Source(
    attribution=(
        "Kermany D, Zhang K, Goldbaum M. Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification. "
        "Mendeley Data V2, doi:10.17632/rscbjbr9sj.2; Kermany et al., Cell 172(5), 2018"
    ),
    population="children of 1 to 5 years, Guangzhou Women and Children's Medical Center, frontal AP radiographs",
    age_years=(1.0, 5.0),
    views=("AP",),
)
_NIH = Source(
    attribution=(
        "Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8. CVPR 2017; NIH Clinical Center, "
        "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    ),
    population="adults and some children, NIH Clinical Center, frontal AP and PA radiographs",
    age_years=None,
    views=("AP", "PA"),
)
_HANNOVER = Source(
    attribution="Winther HB et al. COVID-19 Image Repository. Hannover Medical School, doi:10.25835/0090041",
    population="COVID-19 patients, Hannover Medical School, mostly AP bedside radiographs",
    age_years=None,
    views=("AP", "PA"),
)
SOURCES: dict[str, Source] = {
    "kermany_hires": _KERMANY,
    "kermany_224": _KERMANY,
    "nih_chestxray14": _NIH,
    "hannover_covid19": _HANNOVER,
}


def source(folder: str) -> Source:
    """Raises ConfigurationError for a folder of which nothing is known: weights without a stated population are not exported."""
    if folder not in SOURCES:
        raise ConfigurationError(
            "unknown_source", f"nothing is known of {folder!r}; describe it in training/data/sources.py"
        )
    return SOURCES[folder]


def intended_use(folders: Sequence[str], positive: str) -> IntendedUse:
    """Whom a model trained on these folders is for; they must show one population."""
    found = {source(folder) for folder in folders}
    if len({s.population for s in found}) != 1:
        raise ConfigurationError("mixed_population", f"{sorted(folders)} show different populations")
    one = found.pop()
    return IntendedUse(
        population=one.population,
        age_years=one.age_years,
        views=one.views,
        purpose=f"Decision support: puts films with signs of {positive} first in a worklist that people read.",
        limits=(
            "Not a diagnosis and not for autonomous use. Not for adults, lateral or PA views, nor for anything but "
            f"{positive}: other findings are not looked for. Trained and tested on films of one hospital; figures elsewhere "
            "will be lower. The score is a calibrated risk score within this data, not a clinical probability."
        ),
    )


def licence(films: Sequence[Film]) -> Licence:
    """The weights follow the strictest licence among the training films."""
    names = sorted({film.licence for film in films})
    free = set(names) <= COMMERCIAL
    who = "; ".join(sorted({source(film.folder).attribution for film in films}))
    return Licence(
        weights=f"derived from {' and '.join(names)} images; attribution required",
        commercial_use=free,
        notes=f"Attribution: {who}. The images themselves are not part of the bundle.",
    )
