"""The U-Nets of Stable Diffusion 1, 2 and XL."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kudos_model.measuring.networks.layers import (
    MOMENT_WIDTH,
    Attention,
    GatedFeedForward,
    TwoLayers,
    sinusoids,
)

RESIDUALS = 2
"""Residual blocks of each level on the way down; there is one more on the way up."""
FEED_FORWARD = 4
"""Times the width is the width inside feed-forward layers."""
SIZES = 6
"""Numbers that tell SDXL how large and how cropped the picture shall look."""


@dataclass(frozen=True, slots=True)
class UNetShape:
    """Widths and depths of a U-Net."""

    channels: tuple[int, ...]
    """Of each level, the one of the latents' size first."""
    transformers: tuple[int, ...]
    """Transformer layers after each residual block of a level; 0: none."""
    context: int
    """Width of the prompt's tokens."""
    heads: int | None = None
    """Of every attention; None: as many as have `head_width`."""
    head_width: int = 64
    pooled: int = 0
    """Width of the prompt's summary; 0: it is not used, nor are sizes."""
    latents: int = 4
    groups: int = 32

    def attention(self, width: int) -> Attention:
        """An attention of tokens to themselves."""
        return self._attention(width, width)

    def cross_attention(self, width: int) -> Attention:
        """An attention of tokens to the prompt."""
        return self._attention(width, self.context)

    def _attention(self, width: int, context: int) -> Attention:
        heads = self.heads or width // self.head_width
        return Attention(width, heads, width // heads, context=context)


class UNet(nn.Module):
    """Denoises latents whose sides are multiples of 2 to the number of levels less one."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.first = shape.channels[0]
        embedded = self.first * 4
        self.moment = TwoLayers(self.first, embedded, embedded)
        width = shape.pooled + SIZES * MOMENT_WIDTH
        self.summary = TwoLayers(width, embedded, embedded) if shape.pooled else None
        self.into = nn.Conv2d(shape.latents, self.first, 3, padding=1)
        self.down, widths = _way_down(shape, embedded)
        width, depth = shape.channels[-1], max(shape.transformers[-1], 1)
        self.middle = nn.ModuleList(
            [_Block(shape, width, width, embedded, depth), _Block(shape, width, width, embedded, 0)]
        )
        self.up = _way_up(shape, embedded, widths)
        self.out = nn.Sequential(
            nn.GroupNorm(shape.groups, self.first),
            nn.SiLU(),
            nn.Conv2d(self.first, shape.latents, 3, padding=1),
        )

    def forward(self, latents: Tensor, moments: Tensor, prompt: Tensor, pooled: Tensor) -> Tensor:
        """`pooled` is the prompt's summary, which counts only if the shape has it."""
        embedding: Tensor = self.moment(sinusoids(moments, self.first))
        if self.summary is not None:
            sizes = sinusoids(moments.repeat_interleave(SIZES), MOMENT_WIDTH)
            seen = torch.cat([pooled, sizes.reshape(len(moments), -1)], -1)
            embedding = embedding + self.summary(seen)
        picture = self.into(latents)
        skips = [picture]
        for block in self.down:
            picture = block(picture, embedding, prompt)
            skips.append(picture)
        for block in self.middle:
            picture = block(picture, embedding, prompt)
        for block in self.up:
            if isinstance(block, _Block):
                picture = torch.cat([picture, skips.pop()], 1)
            picture = block(picture, embedding, prompt)
        out: Tensor = self.out(picture)
        return out


def _way_down(shape: UNetShape, embedded: int) -> tuple[nn.ModuleList, list[int]]:
    """The blocks, and the widths of what they leave for the way up."""
    blocks = nn.ModuleList()
    width = shape.channels[0]
    widths = [width]
    for level, (out, depth) in enumerate(zip(shape.channels, shape.transformers, strict=True)):
        for _ in range(RESIDUALS):
            blocks.append(_Block(shape, width, out, embedded, depth))
            width = out
            widths.append(width)
        if level < len(shape.channels) - 1:
            blocks.append(_Resize(width, down=True))
            widths.append(width)
    return blocks, widths


def _way_up(shape: UNetShape, embedded: int, widths: list[int]) -> nn.ModuleList:
    blocks = nn.ModuleList()
    width = shape.channels[-1]
    for level in reversed(range(len(shape.channels))):
        out, depth = shape.channels[level], shape.transformers[level]
        for _ in range(RESIDUALS + 1):
            blocks.append(_Block(shape, width + widths.pop(), out, embedded, depth))
            width = out
        if level:
            blocks.append(_Resize(width, down=False))
    return blocks


class _Block(nn.Module):
    """A residual block that hears of the moment, then `depth` layers that read the prompt."""

    def __init__(self, shape: UNetShape, into: int, out: int, embedded: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(shape.groups, into), nn.SiLU(), nn.Conv2d(into, out, 3, padding=1)
        )
        self.moment = nn.Sequential(nn.SiLU(), nn.Linear(embedded, out))
        self.second = nn.Sequential(
            nn.GroupNorm(shape.groups, out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1)
        )
        self.shortcut = nn.Identity() if into == out else nn.Conv2d(into, out, 1)
        self.reader = _Reader(shape, out, depth) if depth else None

    def forward(self, picture: Tensor, embedding: Tensor, prompt: Tensor) -> Tensor:
        changed = self.first(picture) + self.moment(embedding)[:, :, None, None]
        shortcut: Tensor = self.shortcut(picture)
        out: Tensor = shortcut + self.second(changed)
        return self.reader(out, prompt) if self.reader is not None else out


class _Reader(nn.Module):
    """Transformer layers over the picture's points."""

    def __init__(self, shape: UNetShape, width: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(shape.groups, width)
        self.into, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.layers = nn.ModuleList(_Layer(shape, width) for _ in range(depth))

    def forward(self, picture: Tensor, prompt: Tensor) -> Tensor:
        tokens = self.into(self.norm(picture).flatten(2).transpose(1, 2))
        for layer in self.layers:
            tokens = layer(tokens, prompt)
        out: Tensor = picture + self.out(tokens).transpose(1, 2).unflatten(2, picture.shape[2:])
        return out


class _Layer(nn.Module):
    def __init__(self, shape: UNetShape, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention, self.cross = shape.attention(width), shape.cross_attention(width)
        self.feed_forward = GatedFeedForward(width, width * FEED_FORWARD, bias=True)

    def forward(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norms[0](tokens))
        tokens = tokens + self.cross(self.norms[1](tokens), prompt)
        out: Tensor = tokens + self.feed_forward(self.norms[2](tokens))
        return out


class _Resize(nn.Module):
    def __init__(self, width: int, *, down: bool) -> None:
        super().__init__()
        self.grow = nn.Identity() if down else nn.Upsample(scale_factor=2.0)
        self.conv = nn.Conv2d(width, width, 3, stride=2 if down else 1, padding=1)

    def forward(self, picture: Tensor, _embedding: Tensor, _prompt: Tensor) -> Tensor:
        out: Tensor = self.conv(self.grow(picture))
        return out
