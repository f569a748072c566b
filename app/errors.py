"""Every error the service raises on purpose: one tree, one table.

    CxrError                     status  codes
    ├── RequestError             4xx     the HTTP request itself is wrong (malformed, too large, wrong type, not found, ...)
    │   ├── AuthenticationError  401     no key, or a key that is not valid
    │   ├── ForbiddenError       403     a valid key whose role does not allow the route
    │   └── RateLimitedError     429     the key's request rate is used up
    ├── ImageError               400/413/415   the bytes are not an image this service decodes
    ├── RefusedError             422     a sound image that must not be judged
    ├── ConflictError            409     the request cannot be met by the state of the service
    ├── UnavailableError         503     try again later: overloaded, not ready, audit store away
    ├── InternalError            500     a fault of ours; the detail stays in the log
    ├── BundleError              (none)  a bundle that does not verify; reaches HTTP only as a conflict or as not ready
    ├── BulkError                (none)  a bulk run cannot start or go on; never over HTTP
    ├── RecordsError             (none)  the audit store is away or refuses; reaches HTTP as UnavailableError
    └── ConfigurationError       (none)  settings or secrets with which the service must not start

The message of an HTTP error comes from `ERROR_TABLE` and is filled only with numbers and with words that the service itself
chose (`facts`). Nothing of a request's content, no path and no text of an underlying exception can reach a client.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorSpec:
    """One row of the error table: HTTP status, short title, and a detail that says what was wrong and what to do."""

    status: int
    title: str
    detail: str


ERROR_TABLE: dict[str, ErrorSpec] = {
    # the request
    "malformed_request": ErrorSpec(400, "Malformed request", "The request could not be understood: {what}."),
    "malformed_multipart": ErrorSpec(400, "Malformed multipart body", "The multipart body is not well formed: {what}."),
    "missing_file": ErrorSpec(
        400, "No file in the request", "Send one part named '{part}', or the raw image as the body."
    ),
    "too_many_files": ErrorSpec(400, "Too many files", "At most {limit} files are taken in one request."),
    "invalid_parameter": ErrorSpec(400, "Invalid parameter", "The query parameter '{parameter}' must be {must_be}."),
    "body_timeout": ErrorSpec(408, "Body too slow", "The body did not arrive within {limit_s} seconds."),
    "payload_too_large": ErrorSpec(413, "Payload too large", "The {what} is larger than {limit} bytes."),
    "unsupported_media_type": ErrorSpec(
        415, "Unsupported media type", "Send multipart/form-data, image/jpeg, image/png or application/dicom."
    ),
    "not_acceptable": ErrorSpec(406, "Not acceptable", "This route answers as {types}."),
    "not_found": ErrorSpec(404, "Not found", "There is no such resource."),
    "method_not_allowed": ErrorSpec(405, "Method not allowed", "This route does not take that method."),
    # authentication and rate
    "unauthenticated": ErrorSpec(
        401, "Not authenticated", "Send a valid key as X-API-Key or as Authorization: Bearer."
    ),
    "forbidden": ErrorSpec(403, "Not allowed", "The role of this key does not allow this route."),
    "rate_limited": ErrorSpec(429, "Too many requests", "This key has used up its request rate; try again later."),
    # the image file
    "unsupported_format": ErrorSpec(415, "Unsupported image format", "The content is not JPEG, PNG or DICOM: {what}."),
    "malformed_image": ErrorSpec(400, "Malformed image", "The image file is damaged: {what}."),
    "truncated_image": ErrorSpec(400, "Truncated image", "The image file ends before its image is complete."),
    "trailing_data": ErrorSpec(400, "Data after the image", "The file holds {count} bytes after the end of its image."),
    "animated_image": ErrorSpec(
        415, "More than one picture", "The file holds an animation or several pictures; send one."
    ),
    "unsupported_color": ErrorSpec(415, "Unsupported colour model", "The image is {what}; send grayscale or RGB."),
    "image_too_large": ErrorSpec(
        413, "Image too large", "The image is {width} x {height} px; at most {limit} px a side."
    ),
    # the DICOM file
    "malformed_dicom": ErrorSpec(400, "Malformed DICOM", "The DICOM file is not well formed: {what}."),
    "executable_preamble": ErrorSpec(
        400, "Program in the preamble", "The 128 bytes before the DICOM file begin like a program."
    ),
    "dicom_without_image": ErrorSpec(415, "DICOM without a film", "The DICOM file is {what}; send an image object."),
    "unsupported_transfer_syntax": ErrorSpec(
        415, "Unsupported transfer syntax", "The pixel data is coded as {what}; see the conformance statement."
    ),
    "unsupported_pixel_format": ErrorSpec(415, "Unsupported pixel format", "The pixel data has {what}."),
    "multi_frame_image": ErrorSpec(415, "More than one frame", "The object holds {count} frames; send a single one."),
    "undecodable_image": ErrorSpec(400, "Undecodable image", "The compressed pixel data could not be decoded: {what}."),
    # refusals: a sound file, but not to be judged
    "too_small": ErrorSpec(422, "Image too small", "The image is {width} x {height} px; at least {limit} px a side."),
    "blank_image": ErrorSpec(422, "Blank image", "The image holds no picture: its gray values hardly differ."),
    "unsupported_modality": ErrorSpec(422, "Not a radiograph", "The modality is {found}; the bundle takes {accepted}."),
    "unsupported_body_part": ErrorSpec(422, "Not a chest", "The body part is {found}; the bundle takes {accepted}."),
    "lateral_view": ErrorSpec(422, "Lateral view", "The film is a lateral view; the bundle takes {accepted}."),
    "unsupported_view": ErrorSpec(422, "Other view", "The view is {found}; the bundle takes {accepted}."),
    "patient_age_out_of_range": ErrorSpec(
        422, "Patient's age out of range", "The bundle is meant for patients of {youngest} to {oldest} years."
    ),
    "burned_in_annotation": ErrorSpec(
        422, "Burned-in annotation", "The header says that text is burned into the pixels."
    ),
    "not_for_presentation": ErrorSpec(
        422, "Not for presentation", "The film is raw detector data (FOR PROCESSING); send the one for presentation."
    ),
    "not_a_chest_radiograph": ErrorSpec(
        422, "Not a chest radiograph", "The picture does not look like the frontal chest films the bundle knows."
    ),
    "rotated_image": ErrorSpec(
        422, "Rotated film", "The film seems to be rotated by {degrees} degrees; turn it upright."
    ),
    "inverted_image": ErrorSpec(
        422, "Inverted film", "Black and white seem to be exchanged; check the photometric tag."
    ),
    "cropped_image": ErrorSpec(422, "Cropped film", "Parts of the chest seem to lie outside the picture."),
    "under_exposed": ErrorSpec(422, "Under-exposed", "The film is darker than those the bundle was measured on."),
    "over_exposed": ErrorSpec(422, "Over-exposed", "The film is brighter than those the bundle was measured on."),
    "low_contrast": ErrorSpec(422, "Low contrast", "The film has less contrast than those the bundle was measured on."),
    "dicom_source_required": ErrorSpec(
        422, "Not from a DICOM film", "{what} goes into the study of its film, so the film must be a DICOM file."
    ),
    "presentation_unknown": ErrorSpec(
        422,
        "No presentation state",
        "The film is shown through a look-up table, which a presentation state cannot repeat here.",
    ),
    # retries
    "idempotency_key_reused": ErrorSpec(
        422, "Idempotency-Key used before", "This Idempotency-Key belongs to another request; take a new one."
    ),
    # the state of the service
    "explanation_unavailable": ErrorSpec(409, "No explanation", "The serving bundle does not support {what}."),
    "unknown_operating_point": ErrorSpec(400, "Unknown operating point", "The serving bundle has: {known}."),
    "unknown_target": ErrorSpec(400, "Unknown target class", "The serving bundle has: {known}."),
    "overloaded": ErrorSpec(
        503, "Overloaded", "There is no place in the queue, or the wait is too long; try again later."
    ),
    "not_ready": ErrorSpec(503, "Not ready", "The service is not ready to judge images: {reason}."),
    "audit_unavailable": ErrorSpec(
        503, "Audit store unavailable", "The answer could not be recorded, so none is given."
    ),
    "internal_error": ErrorSpec(
        500, "Internal error", "Something failed on our side; the request id finds it in the log."
    ),
}


class CxrError(Exception):
    """Root of the tree. Carries what is safe to show; `str(error)` is for the log.

    Args:
        code: a key of `ERROR_TABLE` (HTTP errors) or a stable lower-case word (errors that never reach a client as such).
        retry_after_s: seconds after which a new try is worth it; sent as `Retry-After`.
        facts: numbers, and words chosen by the service, that fill the message. Never text taken from a request.
    """

    def __init__(self, code: str, *, retry_after_s: float | None = None, **facts: int | float | str) -> None:
        self.code = code
        self.retry_after_s = retry_after_s
        self.facts = facts
        super().__init__(f"{code}: {self.detail}")

    @property
    def status(self) -> int:
        return ERROR_TABLE[self.code].status

    @property
    def title(self) -> str:
        return ERROR_TABLE[self.code].title

    @property
    def detail(self) -> str:
        return ERROR_TABLE[self.code].detail.format(**self.facts)


class RequestError(CxrError):
    """The HTTP request is wrong."""


class AuthenticationError(RequestError):
    """No key, or a key that is not valid (unknown, revoked, mistyped)."""

    def __init__(self) -> None:
        super().__init__("unauthenticated")


class ForbiddenError(RequestError):
    """A valid key whose role does not allow the route."""

    def __init__(self) -> None:
        super().__init__("forbidden")


class RateLimitedError(RequestError):
    """The key's request rate is used up."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("rate_limited", retry_after_s=retry_after_s)


class ImageError(CxrError):
    """The bytes are not an image this service decodes."""


class RefusedError(CxrError):
    """A sound image that must not be judged."""


class ConflictError(CxrError):
    """The request cannot be met by the present state of the service."""


class UnavailableError(CxrError):
    """Try again later."""


class InternalError(CxrError):
    """A fault of ours."""

    def __init__(self) -> None:
        super().__init__("internal_error")


class _LocalError(CxrError):
    """An error for operators: it has a code and a free message, and never reaches a client as such."""

    def __init__(self, code: str, message: str) -> None:
        self.message = message
        super().__init__(code)

    @property
    def status(self) -> int:
        return 500

    @property
    def title(self) -> str:
        return self.code

    @property
    def detail(self) -> str:
        return self.message


class BundleError(_LocalError):
    """A bundle that does not verify. `code` names the reason (`missing_file`, `changed_file`, `golden_mismatch`, ...)."""


class RecordsError(_LocalError):
    """The audit store is away, refuses to write, or does not fit this code or key ring."""


class BulkError(_LocalError):
    """A bulk run cannot start or go on: its source, its output, the run that it continues, or its cluster."""


class ConfigurationError(_LocalError):
    """Settings or secrets with which the service must not start."""
