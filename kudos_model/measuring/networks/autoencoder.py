"""Autoencoders between pictures and latents that are an eighth as wide and high."""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - everybody calls it so
from torch import Tensor, nn

from kudos_model.measuring.networks.layers import Attention, one_by_one

RESIDUALS = 2
"""Residual blocks of each level of an encoder; a decoder has one more."""


@dataclass(frozen=True, slots=True)
class AutoencoderShape:
    """Widths of an autoencoder."""

    channels: tuple[int, ...]
    """Of each level, the one of the picture's size first."""
    latents: int
    groups: int = 32
    """Of the normalisation."""
    video: bool = False
    """As Qwen-Image's: convolutions reach back over frames, and upsampling halves channels."""

    @property
    def factor(self) -> int:
        """By how much latents are narrower and lower than pictures."""
        return int(2 ** (len(self.channels) - 1))


class Autoencoder(nn.Module):
    """Pictures have three channels; latents are taken as they come, without scaling."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(shape), _decoder(shape)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures whose sides are multiples of the factor."""
        return one_by_one(self.encoder, pictures).chunk(2, 1)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents."""
        return one_by_one(self.decoder, latents)


class _FrameConv(nn.Conv3d):
    """A convolution over frames, given one frame: as video models do it, two empty ones come before."""

    def forward(self, input: Tensor) -> Tensor:
        frames = F.pad(input.unsqueeze(2), (1, 1, 1, 1, 2, 0))
        return super().forward(frames).squeeze(2)


def _conv(shape: AutoencoderShape, into: int, out: int) -> nn.Module:
    return _FrameConv(into, out, 3) if shape.video else nn.Conv2d(into, out, 3, padding=1)


class _Residual(nn.Module):
    def __init__(self, shape: AutoencoderShape, into: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(shape.groups, into),
            nn.SiLU(),
            _conv(shape, into, out),
            nn.GroupNorm(shape.groups, out),
            nn.SiLU(),
            _conv(shape, out, out),
        )
        self.shortcut = nn.Identity() if into == out else nn.Conv2d(into, out, 1)

    def forward(self, picture: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(picture)
        out: Tensor = shortcut + self.body(picture)
        return out


class _Mixing(nn.Module):
    def __init__(self, shape: AutoencoderShape, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(shape.groups, width)
        self.attention = Attention(width, 1, width, bias=True)

    def forward(self, picture: Tensor) -> Tensor:
        tokens = self.attention(self.norm(picture).flatten(2).transpose(1, 2))
        out: Tensor = picture + tokens.transpose(1, 2).unflatten(2, picture.shape[2:])
        return out


def _middle(shape: AutoencoderShape, width: int) -> list[nn.Module]:
    return [_Residual(shape, width, width), _Mixing(shape, width), _Residual(shape, width, width)]


def _ending(shape: AutoencoderShape, width: int, out: int) -> list[nn.Module]:
    return [nn.GroupNorm(shape.groups, width), nn.SiLU(), _conv(shape, width, out)]


def _encoder(shape: AutoencoderShape) -> nn.Sequential:
    width = shape.channels[0]
    layers = [_conv(shape, 3, width)]
    for level, out in enumerate(shape.channels):
        for _ in range(RESIDUALS):
            layers.append(_Residual(shape, width, out))
            width = out
        if level < len(shape.channels) - 1:
            layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
    both = shape.latents * 2  # means and deviations
    return nn.Sequential(
        *layers, *_middle(shape, width), *_ending(shape, width, both), nn.Conv2d(both, both, 1)
    )


def _decoder(shape: AutoencoderShape) -> nn.Sequential:
    width = shape.channels[-1]
    layers = [
        nn.Conv2d(shape.latents, shape.latents, 1),
        _conv(shape, shape.latents, width),
        *_middle(shape, width),
    ]
    for level, out in reversed(list(enumerate(shape.channels))):
        for _ in range(RESIDUALS + 1):
            layers.append(_Residual(shape, width, out))
            width = out
        if level:
            wider, width = width, width // 2 if shape.video else width
            layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(wider, width, 3, padding=1)]
    return nn.Sequential(*layers, *_ending(shape, width, 3))
