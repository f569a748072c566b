"""The `[data]` table of a recipe: which films, what they are called, and how patients are dealt out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from app.bundle.manifest import ClassName
from app.domain import Task
from training.spec import Part, Share

Side = Literal["any", "train", "test"]


class Origin(Part):
    """Whom a source shows and what may be done with it; needed to export a bundle from a source that `training.data.sources` does not know.

    population completes "radiographs of ..."; views as DICOM writes them.
    """

    licence: str
    attribution: str
    commercial_use: bool
    population: str
    age_years: tuple[float, float] | None = None
    views: tuple[str, ...] = ()


class _Source(Part):
    """folder: below the data folder; also the source's name in every table.

    labels: upstream name -> class of the recipe; a film with none of these names is not used. Empty: the classes' own names.
    side: `train` keeps the source out of validation and test, `test` keeps it out of training and validation (a held-out source);
    needed where patients are not known. keep: column -> accepted values (view, sex, age_group, label, and any further column or
    header field of the source: `rsna_class`, `label_agreement`, `modality`, ...). limit: at most this many training films of each
    class (chosen by a seeded hash of the path); validation and test films are never limited.
    """

    folder: str
    labels: dict[str, ClassName] = Field(default_factory=dict)
    side: Side = "any"
    keep: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=1)
    origin: Origin | None = None


class ManifestSource(_Source):
    """`folder/manifest.csv` with the columns of this project's data folder (path, label, patient_id, upstream_split, dup_group, ...), and
    those of `labels14.csv` beside it."""

    kind: Literal["manifest"] = "manifest"


class TreeSource(_Source):
    """Folders named after classes: `folder/[<split>/]<class>/**/film`. Kermany and TBX11K come like this.

    splits: folder name -> train, val or test, where the tree has such a level (empty: it has not).
    patient: regular expression on the file name with a group `patient`; a film that it does not fit has no patient id, so that the
    source needs a side. Without a pattern the whole stem is the patient, each film its own, and a warning says so.
    """

    kind: Literal["tree"] = "tree"
    splits: dict[str, Literal["train", "val", "test"]] = Field(default_factory=dict)
    patient: str | None = None


class Columns(Part):
    """Names of a label table's columns; None where there is no such column: "" in TOML, which has no None. Defaults: NIH ChestX-ray14's
    Data_Entry_2017."""

    path: str = "Image Index"
    findings: str | None = "Finding Labels"
    patient: str | None = "Patient ID"
    split: str | None = None
    age: str | None = "Patient Age"
    sex: str | None = "Patient Gender"
    view: str | None = "View Position"

    @field_validator("findings", "patient", "split", "age", "sex", "view")
    @classmethod
    def _blank_is_none(cls, name: str | None) -> str | None:
        return name or None


_UID_AND_LABEL = Columns(path="SOPInstanceUID", findings="label", patient=None, age=None, sex=None, view=None)


class TableSource(_Source):
    """A CSV or Parquet table, one row per film; paths in it are relative to `folder`.

    findings: one column of names joined by `separator`, or None: one column per upstream name with 1, 0, -1 (uncertain) or blank
    (not mentioned), as CheXpert has. uncertain: what -1 counts as. blank_is_negative: a finding that is not mentioned is absent.
    """

    kind: Literal["table"] = "table"
    table: str
    columns: Columns = Columns()
    separator: str = "|"
    uncertain: Literal["ignore", "negative", "positive"] = "ignore"
    blank_is_negative: bool = True


class DicomSource(_Source):
    """DICOM files anywhere below `folder`, decoded as the service decodes them; age, sex and view come from the headers.

    table: CSV or Parquet with a column `key` (SOP Instance UID, or path relative to `folder`) and the label columns of `columns`;
    None: the parent folder's name is the label. Columns that the recipe does not name: `SOPInstanceUID` and `label`,
    no others. The patient is a hash of PatientID: the identifier itself is never kept.
    """

    kind: Literal["dicom"] = "dicom"
    table: str | None = None
    key: Literal["sop_instance_uid", "path"] = "sop_instance_uid"
    columns: Columns = _UID_AND_LABEL
    separator: str = "|"
    uncertain: Literal["ignore", "negative", "positive"] = "ignore"
    blank_is_negative: bool = True

    @field_validator("columns", mode="before")
    @classmethod
    def _defaults(cls, columns: Any) -> Any:
        """Not those of `Columns`: a DICOM file brings its own patient, age, sex and view."""
        return _UID_AND_LABEL.model_dump() | columns if isinstance(columns, dict) else columns


Source = Annotated[ManifestSource | TreeSource | TableSource | DicomSource, Field(discriminator="kind")]


class DataPart(Part):
    """Which films, and how patients are dealt out.

    classes: binary (negative, positive); multiclass and multilabel: one logit each, in this order.
    test: `upstream` = the films that upstream calls test; a share = of the patients, dealt out with `split_seed`; films of sources
    with side `test` come on top. validation_each: share of the pool for each half of the validation (fit, report).
    split_seed: deals out patients; apart from the recipe's seed, so that runs with different seeds see the same split.
    crossing: what becomes of films outside the test whose patient, or whose picture under another name, is in it, as upstream splits
    have them: `stop` says so before anything is fitted, `leave_out` uses them for nothing. It decides whether a run begins, not what
    comes of it, so the digest leaves it out.
    cached_copies: how many versions of each training film the cache holds: 1 = as decoded, 2 = also recompressed at 224 px JPEG
    quality 75 as one source folder is, 3 = also at a random lower quality.
    duplicate_bits: films of different parts whose 256-bit perceptual hashes differ in at most this many bits are a leak.
    """

    task: Task = "binary"
    classes: tuple[ClassName, ...] = Field(default=("normal", "pneumonia"), min_length=2)
    sources: tuple[Source, ...] = Field(min_length=1)
    test: Literal["upstream"] | Share = "upstream"
    validation_each: Share = 0.1
    split_seed: int = Field(default=20261120, ge=0)
    crossing: Literal["stop", "leave_out"] = "stop"
    cached_copies: int = Field(default=3, ge=1, le=3)
    duplicate_bits: int = Field(default=20, ge=0, le=64)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names must be different")
        if self.task == "binary" and len(self.classes) != 2:
            raise ValueError("a binary recipe has two classes: (negative, positive)")
        if len({s.folder for s in self.sources}) != len(self.sources):
            raise ValueError("a source folder stands twice")
        for source in self.sources:
            unknown = set(source.labels.values()) - set(self.classes)
            if unknown:
                raise ValueError(f"source {source.folder}: labels {sorted(unknown)} are not classes of the recipe")
        return self

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(source.folder for source in self.sources)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each logit of the network stands for: the positive class of a binary recipe, else every class."""
        return self.classes[1:] if self.task == "binary" else self.classes
