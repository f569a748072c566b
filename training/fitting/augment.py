"""Seeded random changes of training films, in torch, on whole batches; and the network's input from gray levels.

`radiograph`: everything works on gray levels 0..255, before the normalisation, in the order in which a film comes to be: tone
(exposure), position, light, sharpness, noise, occlusion. No horizontal flip: it would move the heart to the other side.
`torchvision`: the transforms of torchvision.transforms.v2, film by film, as the source designs use them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from app.bundle.input_spec import FixedNormalisation, InputSpec
from training.fitting.spec import Augmentation, RadiographAugmentation, TorchvisionAugmentation
from training.networks.torchvision_compat import import_torchvision


def augment(films: Tensor, part: Augmentation, size: int, generator: torch.Generator) -> Tensor:
    """Changed films.

    Args:
        films: uint8 [B, S, S], on the generator's device.
        size: side of the result in px (may be smaller than S).
        generator: the only source of chance.

    Returns:
        float32 [B, 1, size, size], gray levels 0..255.
    """
    if isinstance(part, TorchvisionAugmentation):
        return _torchvision(films, part, size, generator)
    x = _tone(films, part, generator)[:, None]
    x = _place(x, part, size, generator)
    if part.illumination > 0:
        x = _light(x, part.illumination, generator)
    x = _sharpness(x, part, generator)
    noise = torch.randn(x.shape, generator=generator, device=generator.device)
    x = (x + noise * _uniform(len(x), 0, part.noise, generator)).clamp(0, 255)
    return _erase(x, part.erase, generator)


def network_input(gray: Tensor, spec: InputSpec) -> Tensor:
    """`app.preprocessing.normalise` on a batch without padding, within 1e-6 of its values (relative, beyond 1).

    gray: float32 [B, 1, S, S], gray levels 0..255. Returns float32 [B, C, S, S].
    """
    norm = spec.normalisation
    if isinstance(norm, FixedNormalisation):
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (norm.mean, norm.std))
        scale, offset = ((1 / (255 * std)).float(), (mean / std).float())
        return gray * scale.to(gray.device) - offset.to(gray.device)
    return standardise(gray, norm.std_floor).expand(-1, spec.channels, -1, -1)


def standardise(films: Tensor, std_floor: float) -> Tensor:
    """`app.preprocessing.normalise` for one channel, per image and without padding, on a batch.

    films: float32 [B, 1, S, S], gray levels 0..255. Returns float32 [B, 1, S, S]: (gray - mean) / max(std, std_floor), with the
    population standard deviation. All in float32, in two passes: the sums are taken over differences from a first mean, which a
    second one corrects, so that nothing is lost that float64 would keep (within 1e-6; 20 times faster).
    """
    flat = films.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    rest = centred.mean(dim=1, keepdim=True)
    variance = (centred * centred).mean(dim=1, keepdim=True) - rest * rest
    std = variance.clamp_min(0).sqrt().clamp_min(std_floor)
    return ((centred - rest) / std).view_as(films)


def _torchvision(films: Tensor, part: TorchvisionAugmentation, size: int, generator: torch.Generator) -> Tensor:
    """The v2 transforms on gray levels 0..1, with parameters drawn anew for each film; float32 [B, 1, size, size], 0..255."""
    import_torchvision()
    from torchvision.transforms import v2  # noqa: PLC0415  (after the guard)

    move = {"translate": (part.shift, part.shift), "scale": (1 - part.scale, 1 + part.scale)}
    steps = [
        v2.RandomHorizontalFlip(part.flip),
        v2.RandomAffine(part.rotation, **move, interpolation=v2.InterpolationMode.BILINEAR),
        v2.ColorJitter(part.brightness, part.contrast),
        v2.RandomApply([v2.GaussianBlur(3, sigma=(0.1, 1.5))], part.blur),
    ]
    if part.noise > 0:
        steps.append(v2.GaussianNoise(sigma=part.noise / 255))
    change = v2.Compose(steps)
    x = films[:, None].float()
    if size < x.shape[-1]:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(seed)  # the transforms draw from torch's global generator
        changed = torch.stack([change(film) for film in x / 255])
    return changed.clamp(0, 1) * 255


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """float32 [n, 1, 1, 1] in [low, high)."""
    return low + (high - low) * torch.rand((n, 1, 1, 1), generator=generator, device=generator.device)


def _tone(films: Tensor, part: RadiographAugmentation, generator: torch.Generator) -> Tensor:
    """One monotone tone curve per film as a table of 256 entries: window, gamma, random curve. float32 [B, S, S]."""
    n = len(films)
    gray = torch.linspace(0, 1, 256, device=films.device).expand(n, 256)
    edges = (torch.rand((n, 2), generator=generator, device=generator.device) * 2 - 1) * part.window
    low, high = edges[:, :1], 1 + edges[:, 1:]
    table = ((gray - low) / (high - low)).clamp(0, 1)
    exponent = (_uniform(n, -1, 1, generator).view(n, 1) * math.log(part.gamma)).exp()
    table = table**exponent
    steps = torch.rand((n, 6), generator=generator, device=generator.device) + 0.05
    knots = F.pad(steps.cumsum(1) / steps.sum(1, keepdim=True), (1, 0))
    position = table * 6
    left = position.floor().clamp(max=5).long()
    curve = knots.gather(1, left) + (position - left) * (knots.gather(1, left + 1) - knots.gather(1, left))
    weight = torch.rand((n, 1), generator=generator, device=generator.device) * part.curve
    table = (1 - weight) * table + weight * curve
    changed = torch.rand((n, 1), generator=generator, device=generator.device) < part.tone_share
    table = torch.where(changed, table, gray) * 255
    return table.gather(1, films.reshape(n, -1).long()).view(films.shape)


def _place(x: Tensor, part: RadiographAugmentation, size: int, generator: torch.Generator) -> Tensor:
    """Rotation, scale, aspect and shift in one bilinear resampling; outside the film is black, as collimation is."""
    n = len(x)
    angle = _uniform(n, -1, 1, generator).flatten() * math.radians(part.rotation)
    scale = (_uniform(n, -1, 1, generator).flatten() * math.log(part.scale)).exp()
    aspect = (_uniform(n, -1, 1, generator).flatten() * math.log(part.aspect) / 2).exp()
    shift = (torch.rand((n, 2), generator=generator, device=generator.device) * 2 - 1) * 2 * part.shift
    cos, sin = angle.cos() / scale, angle.sin() / scale
    row0 = torch.stack([cos * aspect, -sin * aspect, shift[:, 0]], dim=1)
    row1 = torch.stack([sin / aspect, cos / aspect, shift[:, 1]], dim=1)
    if size < x.shape[-1]:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    grid = F.affine_grid(torch.stack([row0, row1], dim=1), [n, 1, size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _light(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A smooth field from 4 x 4 normal numbers, multiplied in as exp(strength * field)."""
    field = torch.randn((len(x), 1, 4, 4), generator=generator, device=generator.device)
    field = F.interpolate(field, x.shape[-2:], mode="bicubic", align_corners=False)
    return (x * (strength * field).exp()).clamp(0, 255)


def _sharpness(x: Tensor, part: RadiographAugmentation, generator: torch.Generator) -> Tensor:
    """Unsharp mask with a weight of either sign, then half resolution and back for a share of the films."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device) / 16
    kernel = (taps[:, None] * taps[None, :])[None, None]
    blurred = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel)
    x = (x + _uniform(len(x), -1, 1, generator) * part.sharpness * (x - blurred)).clamp(0, 255)
    coarse = (torch.rand(len(x), generator=generator, device=generator.device) < part.coarse).nonzero().flatten()
    if len(coarse):
        small = F.avg_pool2d(x[coarse], 2)
        x = x.index_copy(0, coarse, F.interpolate(small, x.shape[-2:], mode="bilinear", align_corners=False))
    return x


def _erase(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A box of 10 to 35 % of the side, at the film's mean gray level, on a share of the films."""
    n, size = len(x), x.shape[-1]
    extent = 0.10 + 0.25 * torch.rand((n, 2), generator=generator, device=generator.device)
    start = torch.rand((n, 2), generator=generator, device=generator.device) * (1 - extent)
    hit = torch.rand(n, generator=generator, device=generator.device) < share
    axis = (torch.arange(size, device=x.device) + 0.5) / size
    rows = (axis >= start[:, :1]) & (axis < (start + extent)[:, :1])
    columns = (axis >= start[:, 1:]) & (axis < (start + extent)[:, 1:])
    box = (rows[:, None, :, None] & columns[:, None, None, :]) & hit[:, None, None, None]
    return torch.where(box, x.mean(dim=(1, 2, 3), keepdim=True), x)
