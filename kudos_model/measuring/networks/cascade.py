"""The stages of Stable Cascade: C makes small latents, B larger ones from them, A pictures.

Known exactly but for the encoder of pictures into stage C's latents: it is an EfficientNetV2-S, in whose
place stands a row of convolutions of about its widths. It runs once for an img2img job.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it so
from torch import Tensor, nn

from kudos_model.measuring.networks.layers import attend, one_by_one, sinusoids

MOMENT_WIDTH = 64


@dataclass(frozen=True, slots=True)
class StageShape:
    """Widths and depths of stage B or C, an hourglass of levels."""

    channels: tuple[int, ...]
    """Of each level, the one of the latents' size first."""
    down: tuple[int, ...]
    """Blocks of each level on the way down."""
    up: tuple[int, ...]
    """Blocks of each level on the way up, in the same order."""
    repeats: tuple[int, ...]
    """How often the blocks of each level run on the way up."""
    heads: tuple[int, ...]
    """Of the attention in each block of a level; 0: there is none."""
    condition: int
    """Width of the tokens that attention reads beside the picture."""
    latents: int
    patch: int
    shrinking: bool
    """Whether each level is half as wide and high as the one before."""
    pooled: int
    """Width of the prompt's summary."""
    text: int = 0
    """Width of the prompt's tokens; 0: not read."""
    image: int = 0
    """Width of the description of an image prompt; 0: not read."""
    guide: int = 0
    """Channels of the latents that are enlarged; 0: there are none."""
    moments: int = 1
    """Moments that a block hears of."""


class _ChannelNorm(nn.Module):
    """Normalises the channels of each point."""

    def forward(self, picture: Tensor) -> Tensor:
        return F.layer_norm(picture.permute(0, 2, 3, 1), picture.shape[1:2]).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    def __init__(self, width: int, skip: int = 0) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = _ChannelNorm()
        self.into, self.out = nn.Linear(width + skip, width * 4), nn.Linear(width * 4, width)
        self.gain, self.shift = nn.Parameter(torch.empty(width * 4)), nn.Parameter(torch.empty(width * 4))

    def forward(self, picture: Tensor, skip: Tensor | None = None) -> Tensor:
        seen = self.norm(self.depthwise(picture))
        if skip is not None:
            seen = torch.cat([seen, skip], 1)
        hidden = F.gelu(self.into(seen.permute(0, 2, 3, 1)))
        response = hidden.norm(dim=(1, 2), keepdim=True)
        response = response / (response.mean(-1, keepdim=True) + 1e-6)
        hidden = self.gain * (hidden * response) + self.shift + hidden
        out: Tensor = picture + self.out(hidden).permute(0, 3, 1, 2)
        return out


class _Block(nn.Module):
    """A residual block, then what it hears of the moment, then attention where the level has it."""

    def __init__(self, shape: StageShape, level: int, *, skip: int = 0) -> None:
        super().__init__()
        width, heads = shape.channels[level], shape.heads[level]
        self.residual = _Residual(width, skip)
        self.moments = nn.ModuleList(nn.Linear(MOMENT_WIDTH, width * 2) for _ in range(shape.moments))
        self.attention = _Reader(width, heads, shape.condition) if heads else None

    def forward(self, picture: Tensor, embedding: Tensor, condition: Tensor, skip: Tensor | None) -> Tensor:
        picture = self.residual(picture, skip)
        for moment in self.moments:
            scale, shift = moment(embedding)[:, :, None, None].chunk(2, 1)
            picture = picture * (1 + scale) + shift
        return picture if self.attention is None else self.attention(picture, condition)


class _Level(nn.Module):
    """Blocks in a row, which may run repeatedly; the first may be joined by what the way down left."""

    def __init__(
        self, shape: StageShape, level: int, blocks: int, *, repeats: int = 1, joined: bool = False
    ) -> None:
        super().__init__()
        width = shape.channels[level]
        skips = [width if joined else 0] + [0] * (blocks - 1)
        self.blocks = nn.ModuleList(_Block(shape, level, skip=skip) for skip in skips)
        self.between = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(repeats - 1))

    def forward(self, picture: Tensor, embedding: Tensor, condition: Tensor, skip: Tensor | None) -> Tensor:
        for between in [None, *self.between]:
            picture = picture if between is None else between(picture)
            for number, block in enumerate(self.blocks):
                picture = block(picture, embedding, condition, None if number else skip)
        return picture


class _Reader(nn.Module):
    """Attention of the picture's points to one another and to the condition."""

    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, _ChannelNorm()
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(condition, width))
        self.query, self.pair = nn.Linear(width, width), nn.Linear(width, width * 2)
        self.out = nn.Linear(width, width)

    def forward(self, picture: Tensor, condition: Tensor) -> Tensor:
        tokens = self.norm(picture).flatten(2).transpose(1, 2)
        source = torch.cat([tokens, self.condition(condition)], 1)
        key, value = self.pair(source).unflatten(-1, (2, self.heads, -1)).unbind(2)
        mixed = attend(self.query(tokens).unflatten(-1, (self.heads, -1)), key, value)
        out: Tensor = picture + self.out(mixed).transpose(1, 2).unflatten(2, picture.shape[2:])
        return out


class Stage(nn.Module):
    """Stage B or C: denoises latents whose sides are multiples of `patch`."""

    def __init__(self, shape: StageShape) -> None:
        super().__init__()
        self.shape = shape
        first, levels = shape.channels[0], range(len(shape.channels))
        self.into = nn.Sequential(
            nn.PixelUnshuffle(shape.patch),
            nn.Conv2d(shape.latents * shape.patch**2, first, 1),
            _ChannelNorm(),
        )
        self.condition = _Condition(shape)
        self.guide = _guide(shape.guide, first) if shape.guide else None
        self.pixels = _guide(3, first) if shape.guide else None
        self.down = nn.ModuleList(_Level(shape, level, shape.down[level]) for level in levels)
        self.up = nn.ModuleList(
            _Level(shape, level, shape.up[level], repeats=shape.repeats[level], joined=level < levels[-1])
            for level in levels
        )
        pairs = list(pairwise(shape.channels))
        self.shrink = nn.ModuleList(_shrink(*pair, shape.shrinking) for pair in pairs)
        self.grow = nn.ModuleList(_grow(*pair, shape.shrinking) for pair in pairs)
        self.out = nn.Sequential(
            _ChannelNorm(), nn.Conv2d(first, shape.latents * shape.patch**2, 1), nn.PixelShuffle(shape.patch)
        )

    def forward(
        self, latents: Tensor, moments: Tensor, prompt: Tensor, pooled: Tensor, guide: Tensor | None = None
    ) -> Tensor:
        """`prompt` and `guide` count only if the shape has them."""
        embedding = sinusoids(moments, MOMENT_WIDTH)
        condition = self.condition(prompt, pooled)
        picture = self.into(latents)
        if self.guide is not None and self.pixels is not None and guide is not None:
            picture = picture + self.guide(_resized(guide, picture))
            picture = picture + _resized(self.pixels(latents.new_zeros(len(latents), 3, 8, 8)), picture)
        left: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            picture = self.shrink[level - 1](left[-1]) if level else picture
            left.append(blocks(picture, embedding, condition, None))
        picture = self.up[-1](left[-1], embedding, condition, None)
        for blocks, grow, skip in list(zip(self.up[:-1], self.grow, left[:-1], strict=True))[::-1]:
            picture = blocks(_resized(grow(picture), skip), embedding, condition, skip)
        out: Tensor = self.out(picture)
        return out


class _Condition(nn.Module):
    """What the prompt says, as tokens (batch, number, condition)."""

    TOKENS = 4
    """That the summary of a prompt, or an image prompt, becomes."""

    def __init__(self, shape: StageShape) -> None:
        super().__init__()
        self.width = shape.condition
        self.pooled = nn.Linear(shape.pooled, shape.condition * self.TOKENS)
        self.text = nn.Linear(shape.text, shape.condition) if shape.text else None
        self.image = nn.Linear(shape.image, shape.condition * self.TOKENS) if shape.image else None

    def forward(self, prompt: Tensor, pooled: Tensor) -> Tensor:
        parts = [self.pooled(pooled).unflatten(1, (self.TOKENS, -1))]
        if self.text is not None:
            parts.append(self.text(prompt))
        if self.image is not None:
            nothing = pooled.new_zeros(len(pooled), self.image.in_features)
            parts.append(self.image(nothing).unflatten(1, (self.TOKENS, -1)))
        return F.layer_norm(torch.cat(parts, 1), (self.width,))


def _guide(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out * 4, 1), nn.GELU(), nn.Conv2d(out * 4, out, 1), _ChannelNorm())


def _shrink(wide: int, deep: int, shrinking: bool) -> nn.Sequential:
    side = 2 if shrinking else 1
    return nn.Sequential(_ChannelNorm(), nn.Conv2d(wide, deep, side, stride=side))


def _grow(wide: int, deep: int, shrinking: bool) -> nn.Sequential:
    side = 2 if shrinking else 1
    return nn.Sequential(_ChannelNorm(), nn.ConvTranspose2d(deep, wide, side, stride=side))


def _resized(picture: Tensor, like: Tensor) -> Tensor:
    if picture.shape[2:] == like.shape[2:]:
        return picture
    return F.interpolate(picture, size=like.shape[2:], mode="bilinear")


@dataclass(frozen=True, slots=True)
class StageAShape:
    """Widths and depths of stage A, and of the encoder into stage C's latents."""

    width: int
    """At a quarter of the picture's size; half as many at half of it."""
    depth: int
    """Blocks before the latents are enlarged."""
    latents: int
    encoder: tuple[int, ...]
    """Channels of the rows of convolutions, each of which halves the sides."""
    small_latents: int
    """Channels of stage C's latents."""


class StageA(nn.Module):
    """Makes pictures from latents that are a quarter as wide and high."""

    FACTOR = 4

    def __init__(self, shape: StageAShape) -> None:
        super().__init__()
        width, half = shape.width, shape.width // 2
        self.body = nn.Sequential(
            nn.Conv2d(shape.latents, width, 1),
            *(_PictureBlock(width) for _ in range(shape.depth)),
            nn.ConvTranspose2d(width, half, 4, stride=2, padding=1),
            _PictureBlock(half),
            nn.Conv2d(half, 12, 1),
            nn.PixelShuffle(2),
        )
        steps = pairwise((3, *shape.encoder))
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(into, out, 3, stride=2, padding=1), nn.SiLU(), _PictureBlock(out))
                for into, out in steps
            ),
            nn.Conv2d(shape.encoder[-1], shape.small_latents, 1),
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of stage B's latents."""
        return one_by_one(self.body, latents)

    def encode(self, pictures: Tensor) -> Tensor:
        """Stage C's latents of pictures, at a smaller scale than it works at."""
        return one_by_one(self.encoder, pictures)


class _PictureBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, padding_mode="replicate")
        self.into, self.out = nn.Linear(width, width * 4), nn.Linear(width * 4, width)
        self.norm = _ChannelNorm()
        self.gammas = nn.Parameter(torch.empty(6))

    def forward(self, picture: Tensor) -> Tensor:
        shift, scale, gate, last_shift, last_scale, last_gate = self.gammas.unbind()
        picture = picture + self.depthwise(self.norm(picture) * (1 + scale) + shift) * gate
        seen = (self.norm(picture) * (1 + last_scale) + last_shift).permute(0, 2, 3, 1)
        out: Tensor = picture + self.out(F.gelu(self.into(seen))).permute(0, 3, 1, 2) * last_gate
        return out
