"""From a bundle to its next version with a gate: the same network, byte for byte, and the parts that decide what it may judge.

The bundle is not trained, calibrated or judged anew: everything that was measured of the network stays as it was, and so do its
reference and its goldens, which only gain what the gate's network makes of them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from app.bundle.gate_spec import Action, GateCode, GateFigure, GateSpec, HeaderGate, PictureGate
from app.bundle.manifest import SCHEMA_VERSION, DataSource, Licence, Manifest
from app.bundle.store import BundleRef, BundleStore, GateParts, VerifiedBundle
from app.domain import Radiograph
from app.errors import ConfigurationError
from app.gate import PictureReference
from app.imaging.decode import decode
from app.imaging.dicom.decoders import DecoderPool
from app.inference.engine import OnnxRuntimeEngine
from app.preprocessing import prepare
from app.selftest import golden_cases
from training.data.cache import LIMITS, Pixels, load_pixels
from training.data.films import Film
from training.data.fingerprint import folder_digests
from training.data.sources import folder_origin, licence
from training.data.splits import recipe_splits
from training.gate.exposure import drawn, made_of
from training.gate.fit import INPUT, SOURCE, GateFit, fit_gate
from training.gate.measure import PICTURES, Bench, Gatekeeper, measure
from training.gate.network import GateNetwork, build_gate
from training.gate.parts import OTHERS, Parts, deal
from training.gate.poses import CROPPED, POSES, Gray, resized, turned_pixels, window
from training.gate.scores import Eye, Limits, Upright, limits, reference
from training.networks.onnx_export import onnx_bytes
from training.places import Places
from training.publishing.draft import Draft, check_new, publish
from training.recipe import Recipe
from training.runs import now, write_atomically

_OF_GATE = "gate: "  # how the gate's sources are told from the network's in the provenance
_FORMAT = 1  # raise when the fit itself changes: a kept fit is then made anew
SURE = 0.25  # quantile of the fit films' evidence from which on there is no doubt
_REFERENCE_FILMS = 400  # of each folder of the fit part
_NO_FILMS, _NO_FILMS_FROM = 400, 10**6  # pictures of each sort; seeds that no fit draws from

# What is done about each finding. Refused: what the network was never meant for, and gray values that are not for display. Warned:
# what sound films of the population may show. Burned-in text is one of these: the films it was trained on carry letters themselves.
ACTIONS: Mapping[GateCode, Action] = {
    "unsupported_modality": "refuse",
    "unsupported_body_part": "refuse",
    "body_part_unknown": "warn",
    "lateral_view": "refuse",
    "unsupported_view": "warn",
    "view_unknown": "warn",
    "patient_age_out_of_range": "refuse",
    "patient_age_unknown": "warn",
    "burned_in_annotation": "warn",
    "not_for_presentation": "refuse",
    "not_a_chest_radiograph": "refuse",
    "rotated_image": "refuse",
    "inverted_image": "refuse",
    "cropped_image": "warn",
    "under_exposed": "warn",
    "over_exposed": "warn",
    "low_contrast": "warn",
}


@dataclass(frozen=True)
class Gated:
    """What was written: the bundle, its digest, the figures."""

    ref: BundleRef
    digest: str
    figures: tuple[GateFigure, ...]


def build_gated(  # noqa: PLR0917  a command's arguments
    parent: BundleRef,
    version: str,
    recipe: Recipe,
    places: Places,
    part: GateFit,
    console: Console,
    pictures: int = PICTURES,
) -> Gated:
    """Fit, measure, write, verify and self-test; then point `latest` at the new version, unless that is for research only.

    A finished fit is kept in the cache: the same command, interrupted while it measures, does not fit again.

    Raises:
        ConfigurationError: the recipe is not the one that the bundle was made with, a data folder is missing, or nothing is known of
            a source.
        BundleError: the parent does not verify, or the version exists.
    """
    bundle = BundleStore(places.bundles).verify(parent)
    if recipe.digest != bundle.manifest.provenance.recipe_digest:
        raise ConfigurationError("stale_recipe", f"{parent} was made with another recipe than {recipe.name} is now")
    check_new(BundleRef(parent.name, version), places)
    parts = deal(places.data, recipe_splits(recipe, places))
    terms = _licence(bundle.manifest.licence, parts.fit, recipe)  # before the fit: it may not know a source
    pixels = load_pixels(places.data, parts.fit, SOURCE, places.cache)
    network = _fitted(parts, pixels, part, places, console)
    data = with_doubt(network, pixels.plain)
    eyes = Eye(INPUT, OnnxRuntimeEngine(data)), Eye(bundle.manifest.input, OnnxRuntimeEngine(bundle.network))
    known, held = learn(eyes, parts, places, part.seed, console)
    spec, picture = _spec(bundle, held, eyes[0])
    tensors = {name: values.astype(np.float32) for name, values in vars(known).items()}
    keeper = Gatekeeper(*eyes, spec, picture, PictureReference.from_tensors(tensors))  # as they will be read
    decoder = DecoderPool(size=1, timeout_s=30.0, memory_bytes=2 << 30)
    try:
        figures = measure(keeper, parts.held_out, Bench(places, part.seed, decoder, console, pictures))
    finally:
        decoder.close()
    picture = picture.model_copy(update={"false_refusal": figures})
    spec = spec.model_copy(update={"picture": picture})
    manifest = _manifest(bundle, version, spec, terms, _sources(pixels, recipe))
    written = _write(bundle, manifest, GateParts(data, tensors), places)
    return Gated(written.ref, written.digest, figures)


def _fitted(parts: Parts, pixels: Pixels, part: GateFit, places: Places, console: Console) -> GateNetwork:
    content = [_FORMAT, asdict(part), [film.path for film in parts.fit], pixels.digest]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    path = places.cache / f"gate-{key}.pt"
    if path.is_file():
        network = build_gate(part.seed)
        network.load_state_dict(torch.load(path, weights_only=True))
        network.eval()
        return network
    network = fit_gate(parts.fit, pixels.plain, part, console)
    kept = io.BytesIO()
    torch.save(network.state_dict(), kept)
    write_atomically(path, kept.getvalue())
    return network


def with_doubt(network: GateNetwork, films: NDArray[np.uint8]) -> bytes:
    """The network as ONNX, knowing from which evidence on there is no doubt.

    Args:
        films: the fit part, uint8 [N, 160, 160].
    """
    evidence = []
    with torch.inference_mode():
        for start in range(0, len(films), 64):
            batch = [Radiograph(np.array(film), "", "png") for film in films[start : start + 64]]
            image = torch.from_numpy(np.stack([prepare(film, INPUT).tensor for film in batch]))
            evidence.append(network.scores(image)[1])
    network.sure.fill_(float(torch.quantile(torch.cat(evidence), SURE)))
    return onnx_bytes(network, INPUT.size)


def learn(
    eyes: tuple[Eye, Eye], parts: Parts, places: Places, seed: int, console: Console
) -> tuple[PictureReference, Limits]:
    """What pictures are compared with, from the fit part, and the limits, from the threshold part."""
    rng = np.random.default_rng([seed, 3])
    gate, classifier = eyes
    some = _read(places, _some(parts.fit, rng), "films of the fit part", console)
    poses = [
        gate.see_all(_in_pose(some, k, rng)).features
        for k in track(range(len(POSES)), "poses", console=console, transient=True)
    ]
    network = classifier.see_all(some).features
    others = _read(places, parts.threshold, "films of the threshold part", console)
    upright = gate.see_all(others)
    known = reference(poses, network, upright.features)
    turned = [gate.see_all(_in_pose(others, k, rng)).logits for k in range(1, len(POSES))]
    folders = ["bundle" if film.folder not in OTHERS else film.folder for film in parts.threshold]
    seen = Upright(upright, classifier.see_all(others).features, folders)
    return known, limits([upright.logits, *turned], seen, gate.see_all(_no_films(others, seed, rng)).features, known)


def _no_films(films: Sequence[Gray], seed: int, rng: np.random.Generator) -> list[Gray]:
    """Pictures of the fit's kinds that the fit has not seen: drawn, and made of the threshold part."""
    made = [made_of(resized(films[i], SOURCE.size), rng) for i in rng.integers(len(films), size=_NO_FILMS)]
    return [*made, *(drawn(seed + _NO_FILMS_FROM + i, SOURCE.size) for i in range(_NO_FILMS))]


def _some(films: Sequence[Film], rng: np.random.Generator) -> list[Film]:
    """At most as many of each folder, so that no source is the measure of all."""
    by_folder: dict[str, list[Film]] = defaultdict(list)
    for film in films:
        by_folder[film.folder].append(film)
    return [found[i] for found in by_folder.values() for i in sorted(rng.permutation(len(found))[:_REFERENCE_FILMS])]


def _read(places: Places, films: Sequence[Film], what: str, console: Console) -> list[Gray]:
    paths = [places.data / film.path for film in films]
    return [
        np.asarray(decode(path.read_bytes(), LIMITS).pixels, np.uint8)
        for path in track(paths, what, console=console, transient=True)
    ]


def _in_pose(films: Sequence[Gray], index: int, rng: np.random.Generator) -> list[Gray]:
    if index == CROPPED:
        return [window(film, rng) for film in films]
    return [turned_pixels(film, POSES[index]) for film in films]


def _spec(bundle: VerifiedBundle, held: Limits, eye: Eye) -> tuple[GateSpec, PictureGate]:
    """The section of the manifest, still without figures."""
    channels = len(eye.see_all([np.zeros((INPUT.size, INPUT.size), np.uint8)]).features[0])
    picture = PictureGate(
        input=INPUT,
        poses=POSES,
        temperature=held.temperature,
        pose_probability_at_least=held.pose_probability_at_least,
        distance_above=held.distance_above,
        network_distance_above=held.network_distance_above,
        features=(channels, 1, 1),
        false_refusal=(),
    )
    header = HeaderGate(
        modalities=("CR", "DX"),
        body_parts=("CHEST", "THORAX", "LUNG"),
        views=bundle.manifest.intended_use.views,
    )
    return GateSpec(header=header, picture=picture, actions=dict(ACTIONS)), picture


def _manifest(
    bundle: VerifiedBundle, version: str, spec: GateSpec, terms: Licence, gate: Sequence[DataSource]
) -> Manifest:
    """The parent's, but for the version, the gate, where it comes from and what the weights may be used for."""
    old = bundle.manifest
    of_network = [s for s in old.provenance.data if not s.name.startswith(_OF_GATE)]
    sources = [*of_network, *gate]
    provenance = old.provenance.model_copy(
        update={"parent_digest": bundle.digest, "created_at": now(), "data": tuple(sources)}
    )
    changed = {
        "schema_version": SCHEMA_VERSION,
        "version": version,
        "gate": spec,
        "provenance": provenance,
        "licence": terms,
    }
    return Manifest.model_validate(old.model_copy(update=changed).model_dump(mode="json"))


def _licence(network: Licence, films: Sequence[Film], recipe: Recipe) -> Licence:
    """Of a parent that has a gate already, only the network's part is kept. Raises ConfigurationError: `unknown_source`."""
    gate = licence(films, recipe)
    of_network = network.weights.removeprefix("network: ").split("; gate: ")[0]
    return Licence(
        weights=f"network: {of_network}; gate: {gate.weights}",
        commercial_use=network.commercial_use and gate.commercial_use,
        notes=gate.notes,
    )


def _sources(pixels: Pixels, recipe: Recipe) -> list[DataSource]:
    """One entry per folder of the gate's fit."""
    origins = {folder: folder_origin(folder, recipe.data.sources) for folder in {f.folder for f in pixels.films}}
    return [
        DataSource(
            name=f"{_OF_GATE}{folder}",
            images=images,
            digest=digest,
            licence=", ".join(
                sorted({f.licence or origins[folder].licence for f in pixels.films if f.folder == folder})
            ),
            attribution=origins[folder].attribution,
        )
        for folder, (images, digest) in folder_digests(pixels.films, pixels.sha256).items()
    ]


def _write(bundle: VerifiedBundle, manifest: Manifest, gate: GateParts, places: Places) -> VerifiedBundle:
    engine, gate_engine = OnnxRuntimeEngine(bundle.network), OnnxRuntimeEngine(gate.network)
    phantoms = [bundle.golden[name] for name in sorted(bundle.golden) if name.startswith("phantom_")]
    golden = golden_cases(manifest, engine, phantoms, gate_engine)
    draft = replace(Draft.of(bundle, manifest, int8=bundle.int8), golden=golden, gate=gate)
    written, _ = publish(draft, places)
    if written.network != bundle.network:  # pragma: no cover  (what was handed in is what was hashed)
        raise ConfigurationError("export_mismatch", f"{written.ref} has another network than {bundle.ref}")
    return written
