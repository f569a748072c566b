"""Folders of DICOM files, their headers read by the service's own bounded walk. A patient is a hash, the identifier is not kept."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.progress import track

from app.errors import ConfigurationError, CxrError
from app.imaging.dicom.attributes import age_years, body_part, view
from app.imaging.dicom.part10 import read_part10
from app.imaging.dicom.values import Header
from app.imaging.dicom.walk import PIXEL_DATA
from training.data.cache import LIMITS
from training.data.films import Film
from training.data.labels import Record
from training.data.spec import DataPart, DicomSource
from training.data.tables import age_group, names_of, read_table, sex_of
from training.data.trees import films_below

_SOP_INSTANCE, _MODALITY, _DATES = 0x00080018, 0x00080060, (0x00080022, 0x00080020)
_ID, _ISSUER, _BIRTH_DATE, _SEX, _AGE = 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x00101010
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_PREFIX = slice(128, 132)


@dataclass(frozen=True)
class DicomHeader:
    """What a film's header says. patient: see `pseudonym`. is_image: it has pixel data."""

    sop_instance_uid: str
    patient: str
    age_years: float | None
    sex: str
    view: str
    modality: str
    body_part: str
    width: int
    height: int
    is_image: bool


def dicom_records(source: DicomSource, root: Path, part: DataPart | None = None) -> Iterator[Record]:
    """The films in path order. Other files, and objects without pixel data (reports, plans), are passed over. part: as for
    `training.data.tables.names_of`.

    Raises ConfigurationError where the folder or table is missing, a row of the table has no film, or a header cannot be read.
    """
    folder = root / source.folder
    if not folder.is_dir():
        raise ConfigurationError("data_missing", f"no folder {source.folder} in {root}; pass the folder with --data")
    table = _table(source, root, part)
    found = set()
    for path in track(films_below(folder, frozenset()), description=f"headers of {source.folder}", transient=True):
        header = _header(path, root) if _is_dicom(path) else None  # None, too, of the directory that lies on every CD
        if header is None or not header.is_image:
            continue
        label, names = path.parent.name, {path.parent.name: 1}
        if table is not None:
            key = header.sop_instance_uid if source.key == "sop_instance_uid" else path.relative_to(folder).as_posix()
            if key not in table:
                continue
            found.add(key)
            label, names = "", table[key]
        yield Record(
            _film(source, path.relative_to(root).as_posix(), header, label), names, source.columns.findings is None
        )
    missing = sorted(set(table or {}) - found)
    if missing:
        raise ConfigurationError(
            "data_missing",
            f"{source.table} of {source.folder} names {len(missing)} films that are not there, such as {missing[0]}",
        )


def read_header(data: memoryview) -> DicomHeader:
    """The header of a DICOM file, by the service's bounded walk; a deflated one is inflated to at most its limit.

    Raises ImageError for a file that is damaged.
    """
    dataset = read_part10(data, LIMITS)
    header = Header(dataset)
    date = next((word for word in map(header.word, _DATES) if word), "")
    return DicomHeader(
        sop_instance_uid=header.uid(_SOP_INSTANCE),
        patient=pseudonym(header.text(_ID), header.text(_ISSUER)),
        age_years=age_years(header.word(_AGE), header.word(_BIRTH_DATE), date),
        sex=sex_of(header.word(_SEX)),
        view=view(header) or "",
        modality=header.word(_MODALITY),
        body_part=body_part(header) or "",
        width=header.us(_COLUMNS, "the number of columns") or 0,
        height=header.us(_ROWS, "the number of rows") or 0,
        is_image=PIXEL_DATA in header,
    )


def pseudonym(patient_id: str, issuer: str) -> str:
    """`dicom:` and 20 hex digits of SHA-256 over issuer and PatientID; "" without a PatientID.

    The same patient has the same name in every folder. It is a pseudonym, not anonymity: who knows the identifiers can find them again.
    """
    if not patient_id.strip():
        return ""
    content = f"{issuer.strip()}\0{patient_id.strip()}".encode()
    return f"dicom:{hashlib.sha256(content).hexdigest()[:20]}"


def _film(source: DicomSource, path: str, header: DicomHeader, label: str) -> Film:
    return Film(
        path=path,
        folder=source.folder,
        upstream_split="",
        label=label,
        patient=header.patient,
        licence=source.origin.licence if source.origin else "",
        age_group=age_group(header.age_years),
        view=header.view,
        sex=header.sex,
        age_years=header.age_years,
        width=header.width,
        height=header.height,
        side=source.side,
        facts=(("body_part", header.body_part), ("modality", header.modality)),
    )


def _table(source: DicomSource, root: Path, part: DataPart | None) -> dict[str, dict[str, int]] | None:
    """Key -> what the table says."""
    if source.table is None:
        return None
    rows = read_table(root / source.folder / source.table, source.columns)
    keys = [row[source.columns.path].strip() for row in rows]
    if source.key == "path":
        keys = [PurePosixPath(key.replace("\\", "/")).as_posix() for key in keys]
    twice = next((key for i, key in enumerate(sorted(keys)[1:]) if key == sorted(keys)[i]), None)
    if twice is not None:
        raise ConfigurationError("film_twice", f"{source.table} of {source.folder} names {twice} twice")
    return dict(zip(keys, names_of(rows, source, part), strict=True))


def _header(path: Path, root: Path) -> DicomHeader | None:
    """None of an object that is no image at all."""
    try:
        return read_header(_mapped(path))
    except CxrError as error:
        if error.code == "dicom_without_image":
            return None
        raise ConfigurationError(
            "unreadable_film",
            f"{path.relative_to(root).as_posix()} cannot be read ({error}): take it out of the folder",
        ) from error


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(_PREFIX.stop)[_PREFIX] == b"DICM"


def _mapped(path: Path) -> memoryview:
    """The file's bytes, of which only those that are looked at are read; the mapping ends with the last view of it."""
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
