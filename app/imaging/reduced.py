"""When a JPEG is decoded at half of its size, and what may be made of such pixels.

Half of the size means that each 8 x 8 block is inverted as 4 x 4 from its low frequencies (libjpeg-turbo, jidctred.c): the decoder does
a quarter of the arithmetic after the entropy coding, and everything behind it has a quarter of the pixels. The network's input is an
area average over at least 8 x 8 px of the film then. It differs by at most one gray level at 4,096 px and, with
the low-pass of the shipped bundles, at any size from the limit on (by two without); but for shutters and markers that were drawn
black on white from one pixel to the next: there fewer than 5 pixels in 1,000 differ by more (up to 16), as they would if the film lay
half a pixel further. `python -m benchmarks.decode` measures it, the tests hold it. Nearer to the network's size whole films would
differ by more, so the rule never goes below `REDUCED_FROM`.

What uses the reduced pixels, and what does not:

- the inputs of both networks, classifier and gate: yes; the gate's is never larger than the classifier's (`app.bundle.consistency`);
- mean, std, dark and bright share, and with them the blank test, the quality notices and drift: yes. Their limits and references come
  from films that training decoded by this same rule. Only the film's finest grain is gone: mean and std move by less than a quarter
  of a gray level, the shares by a few thousandths. Sharpness is taken from the network's input anyway;
- width and height in answers, records and result objects, geometry, contours: of the film, always;
- a picture of the film: only where it is drawn no larger than the reduced pixels. At full size the file is decoded once more;
- the limits on sides and bytes: applied to the film's header, before.

A DICOM film is never reduced, whatever codes its pixels: its gray levels go through a look-up table first, which is not linear. A film
with an odd side is: its last reduced row or column is half of one, and the resize counts it so (`app.preprocessing`). Where the EXIF
orientation mirrors that side, the half would come first, and the film is decoded in full.
"""

from __future__ import annotations

from app.bundle.input_spec import REDUCED_FROM, InputSpec
from app.imaging.jpeg_header import JpegHeader


def is_reduced(header: JpegHeader, network: InputSpec | None) -> bool:
    """Whether a JPEG is decoded at half of its size for this network; never without one."""
    if network is None or not network.reduced_decode:
        return False
    if min(header.width, header.height) < REDUCED_FROM * network.size:
        return False
    height, width = upright_sides(header)
    flips_rows, flips_columns = mirrored(header.orientation)
    return not (height % 2 and flips_rows) and not (width % 2 and flips_columns)


def upright_sides(header: JpegHeader) -> tuple[int, int]:
    """Height and width of the upright film, px."""
    return (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)


def mirrored(orientation: int) -> tuple[bool, bool]:
    """Whether rows and columns run backwards once those of 5 to 8 have changed places (Exif 2.32, tag 0x0112)."""
    return orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
