"""Whom the films show, who must be named, and what may be done with weights made from them.

Licences of single films come from the manifests; this table adds what the data folder's README says in words. A source that is not
in it is described in the recipe (`origin`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.bundle.manifest import IntendedUse, Licence
from app.errors import ConfigurationError
from training.data.films import Film
from training.data.spec import ManifestSource, Origin, Source
from training.recipe import Recipe

NIH_LICENCE = "NIH Clinical Center: no restrictions on use, attribution required"
COMMERCIAL = frozenset({"CC BY 4.0", "CC BY 3.0", "CC BY", "CC0", "Public Domain", NIH_LICENCE})
"""Licences of single films that let weights be used commercially; any other is taken not to."""

_KERMANY = Origin(
    licence="CC BY 4.0",
    attribution=(
        "Kermany D, Zhang K, Goldbaum M. Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification. "
        "Mendeley Data V2, doi:10.17632/rscbjbr9sj.2; Kermany et al., Cell 172(5), 2018"
    ),
    commercial_use=True,
    population="children of 1 to 5 years, Guangzhou Women and Children's Medical Center, frontal AP radiographs",
    age_years=(1.0, 5.0),
    views=("AP",),
)
_NIH = Origin(
    licence=NIH_LICENCE,
    attribution=(
        "Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8. CVPR 2017; NIH Clinical Center, "
        "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    ),
    commercial_use=True,
    population="adults and some children, NIH Clinical Center, frontal AP and PA radiographs",
    views=("AP", "PA"),
)
_RSNA = Origin(
    licence="no explicit licence on the compilation; RSNA challenge terms: non-commercial research",
    attribution=(
        "Rahman T et al. TB Chest Radiography Database. IEEE Access 8, 2020; Shih G et al. RSNA Pneumonia Detection Challenge. "
        "Radiology: AI 1(1), 2019; images: NIH Clinical Center, Wang et al., CVPR 2017"
    ),
    commercial_use=False,
    population="people without lung opacity, mostly adults, NIH Clinical Center, frontal radiographs",
    views=("AP", "PA"),
)
_TBX11K = Origin(
    licence="TBX11K: non-commercial research (authors publish under CC BY-NC-SA 4.0)",
    attribution=(
        "Liu Y, Wu YH, Ban Y, Wang H, Cheng MM. Rethinking Computer-aided Tuberculosis Diagnosis. CVPR 2020; "
        "Revisiting Computer-aided Tuberculosis Diagnosis. TPAMI 2023"
    ),
    commercial_use=False,
    population="people with active or latent tuberculosis, China, frontal PA radiographs",
    views=("PA",),
)
_HANNOVER = Origin(
    licence="CC BY 3.0",
    attribution="Winther HB et al. COVID-19 Image Repository. Hannover Medical School, doi:10.25835/0090041",
    commercial_use=True,
    population="COVID-19 patients, Hannover Medical School, mostly AP bedside radiographs",
    views=("AP", "PA"),
)
_COHEN = Origin(
    licence="CC BY or CC BY-NC-SA 4.0, by image",
    attribution="Cohen JP, Morrison P, Dao L, Roth K, Duong TQ, Ghassemi M. COVID-19 Image Data Collection. arXiv:2006.11988",
    commercial_use=False,
    population="patients with viral, bacterial or fungal pneumonia from published cases of many hospitals, frontal radiographs",
    views=("AP", "PA"),
)
SOURCES: dict[str, Origin] = {
    "kermany_hires": _KERMANY,
    "kermany_224": _KERMANY,
    "nih_chestxray14": _NIH,
    "rsna_normal": _RSNA,
    "tbx11k": _TBX11K,
    "hannover_covid19": _HANNOVER,
    "cohen_covid_chestxray": _COHEN,
}


def folder_origin(folder: str, sources: Iterable[Source]) -> Origin:
    """What the recipe says of the folder, else what is known of it here.

    Raises ConfigurationError where neither says anything: weights without a stated population are not exported.
    """
    told = next((s.origin for s in sources if s.folder == folder and s.origin is not None), None)
    found = told or SOURCES.get(folder)
    if found is None:
        raise ConfigurationError(
            "unknown_source", f"nothing is known of {folder!r}; give its source an `origin` in the recipe"
        )
    return found


def intended_use(recipe: Recipe) -> IntendedUse:
    """Whom a model made by this recipe is for, in the words of its sources. Held-out sources (side = test) are not counted.

    age_years: the span of the sources, None where one of them does not state it.
    """
    part = recipe.data
    learnt = [s for s in part.sources if s.side != "test"]
    origins = [folder_origin(s.folder, part.sources) for s in learnt]
    populations = list(dict.fromkeys(map(_population, learnt, origins)))
    mixed = len(populations) > 1
    ages = [origin.age_years for origin in origins]
    known = [age for age in ages if age is not None]
    span = (min(a[0] for a in known), max(a[1] for a in known)) if known and len(known) == len(ages) else None
    views = tuple(sorted({view for origin in origins for view in origin.views}))
    population = "; ".join(populations)
    return IntendedUse(
        population=f"mixed populations: {population}" if mixed else population,
        age_years=span,
        views=views,
        purpose=_purpose(recipe),
        limits=_limits(recipe, span, views, mixed=mixed),
    )


def _population(source: Source, origin: Origin) -> str:
    groups = source.keep.get("age_group", ()) if isinstance(source, ManifestSource) else ()
    return f"{origin.population} ({' and '.join(groups)} patients only)" if groups else origin.population


def _purpose(recipe: Recipe) -> str:
    part = recipe.data
    match part.task:
        case "binary":
            return f"Decision support: puts films with signs of {part.classes[1]} first in a worklist that people read."
        case "multiclass":
            names = ", ".join(part.classes[:-1]) + f" or {part.classes[-1]}"
            return f"Decision support: sorts films into {names}, for a worklist that people read."
        case "multilabel":
            return f"Decision support: marks {len(part.classes)} labels ({', '.join(part.classes)}) for people who read the films."


def _limits(recipe: Recipe, span: tuple[float, float] | None, views: Sequence[str], *, mixed: bool) -> str:
    part = recipe.data
    looked_for = ", ".join(name for name in part.outputs if name not in {"normal", "no_finding"})
    outside = []
    if span is not None and span[1] < 18:
        outside.append("adults")
    if span is not None and span[0] >= 18:
        outside.append("children")
    if views and set(views) <= {"AP", "PA"}:
        outside.append("lateral views" if len(views) == 2 else f"lateral or {({'AP', 'PA'} - set(views)).pop()} views")
    lines = [
        "Not a diagnosis and not for autonomous use.",
        f"Not for {', '.join(outside)}, nor for anything but {looked_for}: other findings are not looked for."
        if outside
        else f"Not for anything but {looked_for}: other findings are not looked for.",
    ]
    if mixed:
        lines.append(
            "The sources differ in hospital, scanner and population, and not every source shows every class: what tells the "
            "sources apart can look like what tells the classes apart."
        )
    lines += [
        "Trained and tested on films of these sources; figures elsewhere will be lower.",
        "The score is a calibrated risk score within this data, not a clinical probability.",
    ]
    return " ".join(lines)


def licence(films: Sequence[Film], recipe: Recipe | None = None) -> Licence:
    """The weights follow the strictest licence among the films that shaped them.

    A film's own licence counts, else its source's; one that is not known to allow commercial use does not. recipe: for sources that are
    described there.

    Raises:
        ConfigurationError: `unknown_source`.
    """
    sources = (*recipe.data.sources, *(recipe.pretraining.sources if recipe.pretraining else ())) if recipe else ()
    origins = {folder: folder_origin(folder, sources) for folder in {film.folder for film in films}}
    free, bound = set[str](), dict[str, set[str]]()
    for film in films:
        origin = origins[film.folder]
        name = film.licence or origin.licence
        if origin.commercial_use if name == origin.licence else name in COMMERCIAL:
            free.add(name)
        else:
            bound.setdefault(film.folder, set()).add(name)
    who = "; ".join(sorted({origin.attribution for origin in origins.values()}))
    notes = f"Attribution: {who}. The images themselves are not part of the bundle."
    if bound:
        notes = f"{_why_not(films, bound)} {notes}"
    names = sorted(free.union(*bound.values()))
    return Licence(
        weights=f"derived from {' and '.join(names)} images; attribution required",
        commercial_use=not bound,
        notes=notes,
    )


def _why_not(films: Sequence[Film], bound: dict[str, set[str]]) -> str:
    """Which sources forbid commercial use, and which classes come from them alone."""
    where = ", ".join(f"{folder} ({' / '.join(sorted(names))})" for folder, names in sorted(bound.items()))
    classes = sorted({film.label for film in films if film.label})
    only = [name for name in classes if {film.folder for film in films if film.label == name} <= set(bound)]
    text = f"No commercial use, because of {where}."
    return f"{text} All films of {', '.join(only)} come from there." if only else text
