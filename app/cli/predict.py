"""`cxr predict` and `cxr phantom`: one film through the same service object as over HTTP, and a film that belongs to nobody."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry

from app.api.schemas import prediction_response
from app.bundle.store import BundleStore
from app.cli.session import open_records, operator
from app.domain import Principal, Role
from app.engines import Engines
from app.errors import CxrError, ImageError, RefusedError, RequestError
from app.imaging.dicom.decoders import DecoderPool
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.imaging.phantom_dicom import encode_dicom
from app.inference.cores import usable_cores
from app.inference.scheduler import Scheduler
from app.live import LiveBundles
from app.metrics import Metrics
from app.service import Answer, Asker, PredictOptions, TriageService


def predict(
    films: Annotated[list[Path], typer.Argument(help="JPEG, PNG or DICOM files.", exists=True, dir_okay=False)],
    operating_point: Annotated[str | None, typer.Option(help="An operating point of the live bundle.")] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Decide on the mean over five views of each film.")] = False,
) -> None:
    """Judge films without a running service: the same steps, limits and audit trail. Prints the answer as JSON, one line a film.

    Exit status 1 if any film was refused; its reason is on standard error.
    """
    refused = False
    with open_records() as (settings, records):
        scheduler = Scheduler(workers=1, queue_max=1, queue_timeout_s=settings.queue_timeout_s)
        decoder = DecoderPool(1, settings.dicom_decode_timeout_s, settings.dicom_decode_max_bytes)
        bundles = LiveBundles(
            BundleStore(settings.bundles_dir),
            records,
            pin=settings.bundle,
            poll_s=settings.bundle_poll_s,
            accept_failed_gate=settings.accept_failed_gate,
            engines=Engines(  # that of the service on this machine; a few films are no reason to measure one
                settings.engine,
                workers=settings.workers or usable_cores(),
                cache_dir=settings.engine_cache,
                choices=records.choices,
                measure=None,
            ),
        )
        bundles.load_live()
        service = TriageService(
            settings=settings,
            records=records,
            scheduler=scheduler,
            bundles=bundles,
            metrics=Metrics(CollectorRegistry()),
            decoder=decoder,
        )
        max_bytes = max(settings.upload_max_bytes, settings.dicom_max_bytes)
        options = PredictOptions(operating_point=operating_point, tta=tta)
        try:
            for path in films:
                outcome = asyncio.run(_one(service, path, max_bytes, options))
                if isinstance(outcome, Answer):
                    typer.echo(prediction_response(outcome).model_dump_json())
                else:
                    refused = True
                    typer.echo(f"{path}: {outcome}", err=True)
        finally:
            scheduler.close()
            decoder.close()
    if refused:
        sys.exit(1)


def _film(path: Path, max_bytes: int) -> bytes:
    """Raises: RequestError, `payload_too_large`."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise RequestError("payload_too_large", what="image", limit=max_bytes)
    return data


async def _one(service: TriageService, path: Path, max_bytes: int, options: PredictOptions) -> Answer | CxrError:
    who = Principal(key_id=f"cli:{operator()}", name=operator(), role=Role.ADMIN)
    try:
        data = _film(path, max_bytes)
        with service.admit() as admission:
            return await service.predict(data, Asker(who, uuid.uuid4().hex), options, admission)
    except (ImageError, RefusedError, RequestError) as error:
        return error


def write_phantom(
    out: Annotated[Path, typer.Option(help="File to write; .png, .jpg or .dcm decides the format.", dir_okay=False)],
    seed: Annotated[int, typer.Option(help="Same seed, same film.", min=0)] = 0,
    height: Annotated[int, typer.Option(help="px", min=64, max=8192)] = 512,
    width: Annotated[int, typer.Option(help="px", min=64, max=8192)] = 448,
    opacity: Annotated[bool, typer.Option(help="Draw an opacity in one lung.")] = False,
) -> None:
    """Write a generated chest-like test image: for a first request, for tests, for demonstrations. No patient was involved."""
    film = phantom(seed, height=height, width=width, opacity=opacity)
    match out.suffix.lower():
        case ".png":
            out.write_bytes(encode_png(film))
        case ".jpg" | ".jpeg":
            out.write_bytes(encode_jpeg(film))
        case ".dcm":
            out.write_bytes(encode_dicom(film))
        case _:
            raise typer.BadParameter("must end in .png, .jpg, .jpeg or .dcm", param_hint="--out")
