"""The world's pictures as tensors, and the augmentation that training and evaluation share.

Drawings keep their alpha channel, so that training can put them on other backgrounds; photographs are squeezed to a
square and cropped. Everything runs on whole batches, because many pictures a step matter more than many questions.
"""

import math

import torch
import torch.nn.functional as F
from PIL import Image

from interventions.testbed.schema import EMBEDDED

from .vocabulary import IMAGE_SIZE
from .world import HELD_OUT_STYLE, PHOTO, World

DRAWING, PHOTOGRAPH = 96, 128  # pixels of a side, as they are held
PHOTOGRAPHED = 0.4  # of the samples of an entity that is both drawn and photographed


class Gallery:
    """All pictures of a world; a picture is named by its index in `world.pictures`."""

    def __init__(self, world: World):
        self.is_photo = torch.tensor([picture.style == PHOTO for picture in world.pictures])
        self.slot = torch.zeros(len(world.pictures), dtype=torch.long)  # row in .drawings or .photos
        drawings, photos, aspects = [], [], []
        for i, picture in enumerate(world.pictures):
            with Image.open(EMBEDDED / picture.file) as image:
                if picture.style == PHOTO:
                    aspects.append(image.width / image.height)
                    self.slot[i] = len(photos)
                    photos.append(_pixels(image.convert("RGB"), PHOTOGRAPH))
                else:
                    self.slot[i] = len(drawings)
                    drawings.append(_pixels(image.convert("RGBA"), DRAWING))
        self.drawings = torch.stack(drawings).permute(0, 3, 1, 2).contiguous()  # [n, 4, 96, 96] uint8
        self.photos = torch.stack(photos).permute(0, 3, 1, 2).contiguous()  # [m, 3, 128, 128] uint8
        self.aspects = torch.tensor(aspects)
        seen = [i for i, picture in enumerate(world.pictures) if picture.style != HELD_OUT_STYLE]
        self.by_entity = {slug: [i for i in entity.pictures if i in set(seen)]
                          for slug, entity in world.entities.items()}
        self.mates = {i: [j for j in self.by_entity[world.pictures[i].entity] if j != i and not self.is_photo[j]]
                      for i in seen if world.pictures[i].entity in world.entities and not self.is_photo[i]}

    def sample(self, slug: str, random) -> int:
        """A picture of trained style: a photograph with probability `PHOTOGRAPHED` where there are both."""
        photos = [i for i in self.by_entity[slug] if self.is_photo[i]]
        drawings = [i for i in self.by_entity[slug] if not self.is_photo[i]]
        pool = photos if photos and (not drawings or random.random() < PHOTOGRAPHED) else drawings
        return random.choice(pool)

    def batch(self, indices: list[int], generator: torch.Generator, augment: bool = True, mix: float = 0.0):
        """Pixel values [B, 3, 64, 64] in [-1, 1]; without `augment`, as the processor would show the whole picture."""
        indices = torch.as_tensor(indices)
        out = torch.empty(len(indices), 3, IMAGE_SIZE, IMAGE_SIZE)
        photo = self.is_photo[indices]
        if photo.any():
            out[photo] = self._photos(self.slot[indices[photo]], generator, augment)
        if (~photo).any():
            out[~photo] = self._drawings(indices[~photo], generator, augment, mix)
        if augment:
            out = jitter(out, generator)
        return out.clamp(0, 1) * 2 - 1

    def _photos(self, slots, generator, augment):
        pixels = self.photos[slots].float() / 255
        if not augment:
            return F.interpolate(pixels, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
        uniform = _uniform(len(slots), generator)
        area, ratio = uniform(0.35, 1.0), torch.exp(uniform(-0.25, 0.25)) / self.aspects[slots]
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)  # center of the crop, in [-1, 1]
        flip, angle = torch.sign(uniform(-1, 1)), uniform(-0.1, 0.1)
        cos, sin = torch.cos(angle), torch.sin(angle)
        affine = torch.stack([torch.stack([width * flip * cos, -width * flip * sin, x], 1),
                              torch.stack([height * sin, height * cos, y], 1)], 1)
        return _warp(pixels, affine, padding="reflection")

    def _drawings(self, indices, generator, augment, mix):
        B = len(indices)
        pixels = self.drawings[self.slot[indices]].float() / 255
        pixels = torch.cat([pixels[:, :3] * pixels[:, 3:], pixels[:, 3:]], 1)  # premultiplied alpha
        if not augment:
            pixels = F.interpolate(pixels, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
            return pixels[:, :3] + 1 - pixels[:, 3:]
        uniform = _uniform(B, generator)
        if mix:  # blend with the same entity drawn in another style: styles in between, which helps the held-out one
            picks = torch.randint(1 << 30, (B,), generator=generator)
            mates = [self.mates.get(int(i)) or [int(i)] for i in indices]
            mates = self.slot[[mate[int(k) % len(mate)] for mate, k in zip(mates, picks, strict=True)]]
            other = self.drawings[mates].float() / 255
            other = torch.cat([other[:, :3] * other[:, 3:], other[:, 3:]], 1)
            weight = (uniform(0.1, 0.9) * (uniform(0, 1) < mix))[:, None, None, None]
            pixels = pixels * (1 - weight) + other * weight
        angle, scale, aspect = uniform(-0.22, 0.22), 1 / uniform(0.74, 1.08), torch.exp(uniform(-0.12, 0.12))
        shear, dx, dy = uniform(-0.12, 0.12), uniform(-0.13, 0.13), uniform(-0.13, 0.13)
        cos, sin = torch.cos(angle), torch.sin(angle)
        affine = torch.stack([torch.stack([scale * cos * aspect, shear - scale * sin, dx], 1),
                              torch.stack([scale * sin, scale * cos / aspect, dy], 1)], 1)
        pixels = _warp(pixels, affine)
        return pixels[:, :3] + (1 - pixels[:, 3:]) * self._backgrounds(B, generator)

    def _backgrounds(self, B, generator):
        """White (30 %), a photograph (20 %), else a smooth random gradient mixed with a flat color."""
        uniform = _uniform(B, generator)
        smooth = F.interpolate(torch.rand(B, 3, 4, 4, generator=generator), (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
        flat, mixing = torch.rand(B, 3, 1, 1, generator=generator), uniform(0, 1)[:, None, None, None]
        photo = self.photos[torch.randint(len(self.photos), (B,), generator=generator)].float() / 255
        choice = uniform(0, 1)[:, None, None, None]
        background = torch.where(choice < 0.2, F.interpolate(photo, (IMAGE_SIZE, IMAGE_SIZE)),
                                 flat * (1 - mixing) + smooth * mixing)
        return torch.where(choice > 0.7, torch.ones(()), background)


def jitter(pixels, generator):
    """Brightness, contrast, saturation, color cast, noise and blur on [B, 3, H, W] in [0, 1]."""
    B = len(pixels)
    uniform = lambda low, high: _uniform(B, generator)(low, high)[:, None, None, None]  # noqa: E731
    pixels = pixels * uniform(0.78, 1.18)
    mean = pixels.mean((2, 3), keepdim=True)
    pixels = (pixels - mean) * uniform(0.75, 1.25) + mean
    gray = pixels.mean(1, keepdim=True)
    pixels = gray + (pixels - gray) * uniform(0.7, 1.3) + uniform(-0.06, 0.06)
    pixels = pixels * (1 + 0.06 * torch.randn(B, 3, 1, 1, generator=generator))
    pixels = pixels + 0.03 * torch.randn(pixels.shape, generator=generator) * (uniform(0, 1) < 0.4)
    blurred = F.interpolate(F.avg_pool2d(pixels, 2), pixels.shape[-2:], mode="bilinear")
    return torch.where(uniform(0, 1) < 0.12, blurred, pixels)


def whitened_patches(pixels, patch: int, width: int):
    """Whitened principal directions of the patches of [B, 3, H, W]: a start for a patch embedding [width, 3, p, p]."""
    patches = F.unfold(pixels, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch)
    _, scale, directions = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    weight = directions[:width] / (scale[:width, None] / math.sqrt(len(patches)) + 0.15)
    return 0.3 * weight.view(width, 3, patch, patch)


def _pixels(image: Image.Image, side: int) -> torch.Tensor:
    """The picture squeezed into a square: uint8 [side, side, channels]."""
    pixels = bytearray(image.resize((side, side), Image.LANCZOS).tobytes())
    return torch.frombuffer(pixels, dtype=torch.uint8).view(side, side, -1)


def _uniform(B, generator):
    return lambda low, high: torch.rand(B, generator=generator) * (high - low) + low


def _warp(pixels, affine, padding="zeros"):
    grid = F.affine_grid(affine, (len(pixels), pixels.shape[1], IMAGE_SIZE, IMAGE_SIZE), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=padding, align_corners=False)
