"""What the networks share: attention, feed-forward layers, positions, the embedding of a moment."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it so
from torch import Tensor, nn

MOMENT_WIDTH = 256
"""Sines and cosines that a moment is first turned into by all networks but the U-Nets."""


def sinusoids(moments: Tensor, width: int) -> Tensor:
    """Turn moments (batch,) into (batch, width)."""
    steps = torch.arange(width // 2, device=moments.device, dtype=torch.float32) / (width // 2)
    angles = moments.float()[:, None] * torch.exp(-math.log(10_000) * steps)
    return torch.cat([angles.cos(), angles.sin()], -1).to(moments.dtype)


class TwoLayers(nn.Sequential):
    """Linear, SiLU, linear: how moments and pooled prompts are embedded."""

    def __init__(self, into: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(into, hidden), nn.SiLU(), nn.Linear(hidden, out))


def rotation(positions: Tensor, widths: Sequence[int], theta: float = 10_000.0) -> Tensor:
    """Angles (length, sum of widths / 2) of positions (length, axes), each axis turning its part."""
    parts = []
    for axis, width in enumerate(widths):
        powers = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
        parts.append(positions[:, axis, None].float() * theta**-powers)
    return torch.cat(parts, -1)


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Turn (batch, length, heads, width) by the angles of `rotation`."""
    cos, sin = angles.cos().to(heads.dtype)[:, None], angles.sin().to(heads.dtype)[:, None]
    first, second = heads.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def text_positions(length: int, axes: int, device: torch.device) -> Tensor:
    """Positions (length, axes) of text: the same on all axes."""
    return torch.arange(length, device=device)[:, None].expand(length, axes)


def picture_positions(height: int, width: int, device: torch.device) -> Tensor:
    """Positions (height * width, 3) of the patches of a picture: 0, row, column."""
    rows = torch.arange(height, device=device)[:, None].expand(height, width)
    columns = torch.arange(width, device=device)[None].expand(height, width)
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, bias: Tensor | None = None
) -> Tensor:
    """Attention over (batch, length, heads, width), giving (batch, length, heads * width).

    There may be fewer heads of keys and values than of queries.
    """
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=bias,
        is_causal=causal,
        enable_gqa=key.shape[2] != query.shape[2],
    )
    return mixed.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Attention of tokens to themselves or to a context of another width."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        *,
        key_heads: int | None = None,
        context: int | None = None,
        bias: bool = False,
        out_bias: bool = True,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.head_width = head_width
        key_width = (key_heads or heads) * head_width
        self.query = nn.Linear(width, heads * head_width, bias=bias)
        self.key = nn.Linear(context or width, key_width, bias=bias)
        self.value = nn.Linear(context or width, key_width, bias=bias)
        self.query_norm = nn.RMSNorm(head_width) if normed else nn.Identity()
        self.key_norm = nn.RMSNorm(head_width) if normed else nn.Identity()
        self.out = nn.Linear(heads * head_width, width, bias=out_bias)

    def forward(
        self,
        tokens: Tensor,
        context: Tensor | None = None,
        *,
        angles: Tensor | None = None,
        causal: bool = False,
        bias: Tensor | None = None,
    ) -> Tensor:
        source = tokens if context is None else context
        query = self.query_norm(self.query(tokens).unflatten(-1, (-1, self.head_width)))
        key = self.key_norm(self.key(source).unflatten(-1, (-1, self.head_width)))
        value = self.value(source).unflatten(-1, (-1, self.head_width))
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        out: Tensor = self.out(attend(query, key, value, causal=causal, bias=bias))
        return out


class FeedForward(nn.Sequential):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


class GatedFeedForward(nn.Module):
    """A feed-forward layer that one half of opens the gates of the other."""

    def __init__(self, width: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.into = nn.Linear(width, hidden * 2, bias=bias)
        self.out = nn.Linear(hidden, width, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, value = self.into(tokens).chunk(2, -1)
        out: Tensor = self.out(F.silu(gate) * value)
        return out


def one_by_one(network: nn.Module, batch: Tensor) -> Tensor:
    """What a network makes of each picture alone: at this size it takes as long, and far less memory."""
    return torch.cat([network(picture) for picture in batch.chunk(len(batch))])


def to_patches(latents: Tensor, side: int) -> Tensor:
    """Cut (batch, channels, height, width) into tokens (batch, patches, channels * side * side)."""
    return F.pixel_unshuffle(latents, side).flatten(2).transpose(1, 2)


def from_patches(tokens: Tensor, side: int, height: int) -> Tensor:
    """Put tokens of `to_patches` together again; `height` is that of the latents."""
    return F.pixel_shuffle(torch.unflatten(tokens.transpose(1, 2), 2, (height // side, -1)), side)
