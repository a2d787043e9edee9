"""The diffusion transformers: Flux and Qwen-Image (two streams), Z-Image (one stream)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it so
from torch import Tensor, nn

from kudos_model.measuring.networks.layers import (
    MOMENT_WIDTH,
    Attention,
    FeedForward,
    GatedFeedForward,
    TwoLayers,
    attend,
    from_patches,
    picture_positions,
    rotate,
    rotation,
    sinusoids,
    text_positions,
    to_patches,
)

PATCH = 2
"""Side of the patches that latents are cut into."""


@dataclass(frozen=True, slots=True)
class TransformerShape:
    """Widths and depths of a transformer."""

    width: int
    heads: int
    context: int
    """Width of the prompt's tokens."""
    axes: tuple[int, int, int]
    """How much of a head's width tells the position in text, the row and the column."""
    double: int = 0
    """Blocks in which text and picture have weights of their own."""
    single: int = 0
    """Blocks in which they share them."""
    refiners: int = 0
    """Blocks that text and picture pass alone first (one stream only)."""
    pooled: int = 0
    """Width of the prompt's summary; 0: not used."""
    guided: bool = False
    """Whether the guidance is an input."""
    latents: int = 16

    @property
    def head_width(self) -> int:
        """Of each attention."""
        return self.width // self.heads

    @property
    def patch(self) -> int:
        """Numbers of a patch."""
        return self.latents * PATCH * PATCH


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:]) * (1 + scale) + shift


class _Modulation(nn.Module):
    """Turns the embedding of the moment (batch, width) into so many vectors (batch, 1, width)."""

    def __init__(self, width: int, vectors: int) -> None:
        super().__init__()
        self.vectors = vectors
        self.linear = nn.Linear(width, width * vectors)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        vectors: Tensor = self.linear(F.silu(embedding))[:, None]
        return vectors.chunk(self.vectors, -1)


class _Heads(nn.Module):
    """Normalises queries and keys and turns them by their positions."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = nn.RMSNorm(head_width), nn.RMSNorm(head_width)
        self.head_width = head_width

    def forward(self, joined: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = torch.unflatten(joined, -1, (3, -1, self.head_width)).unbind(2)
        return rotate(self.query_norm(query), angles), rotate(self.key_norm(key), angles), value


class _Stream(nn.Module):
    """One side, text or picture, of a double block."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        width = shape.width
        self.modulation = _Modulation(width, 6)
        self.joined, self.heads = nn.Linear(width, width * 3), _Heads(shape.head_width)
        self.out, self.feed_forward = nn.Linear(width, width), FeedForward(width, width * 4)

    def ask(self, tokens: Tensor, vectors: tuple[Tensor, ...], angles: Tensor) -> tuple[Tensor, ...]:
        heads: tuple[Tensor, ...] = self.heads(self.joined(_modulated(tokens, *vectors[:2])), angles)
        return heads

    def hear(self, tokens: Tensor, vectors: tuple[Tensor, ...], mixed: Tensor) -> Tensor:
        gate, shift, scale, last_gate = vectors[2:]
        tokens = tokens + gate * self.out(mixed)
        out: Tensor = tokens + last_gate * self.feed_forward(_modulated(tokens, shift, scale))
        return out


class _DoubleBlock(nn.Module):
    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.text, self.picture = _Stream(shape), _Stream(shape)

    def forward(
        self, text: Tensor, picture: Tensor, embedding: Tensor, angles: Tensor
    ) -> tuple[Tensor, Tensor]:
        length = text.shape[1]
        text_vectors, vectors = self.text.modulation(embedding), self.picture.modulation(embedding)
        asked = (
            self.text.ask(text, text_vectors, angles[:length]),
            self.picture.ask(picture, vectors, angles[length:]),
        )
        query, key, value = (torch.cat(parts, 1) for parts in zip(*asked, strict=True))
        mixed = attend(query, key, value)
        return (
            self.text.hear(text, text_vectors, mixed[:, :length]),
            self.picture.hear(picture, vectors, mixed[:, length:]),
        )


class _SingleBlock(nn.Module):
    """Attention and feed-forward side by side, sharing their matrices."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        width = shape.width
        self.hidden = width * 4
        self.modulation, self.heads = _Modulation(width, 3), _Heads(shape.head_width)
        self.into = nn.Linear(width, width * 3 + self.hidden)
        self.out = nn.Linear(width + self.hidden, width)

    def forward(self, tokens: Tensor, embedding: Tensor, angles: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(embedding)
        joined, hidden = self.into(_modulated(tokens, shift, scale)).tensor_split([-self.hidden], -1)
        mixed = attend(*self.heads(joined, angles))
        hidden = F.gelu(hidden, approximate="tanh")
        out: Tensor = tokens + gate * self.out(torch.cat([mixed, hidden], -1))
        return out


class TwoStreams(nn.Module):
    """Denoises latents whose sides are multiples of `PATCH`: first double blocks, then single ones."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.into, self.text = nn.Linear(shape.patch, width), nn.Linear(shape.context, width)
        self.moment = TwoLayers(MOMENT_WIDTH, width, width)
        self.guidance = TwoLayers(MOMENT_WIDTH, width, width) if shape.guided else None
        self.pooled = TwoLayers(shape.pooled, width, width) if shape.pooled else None
        self.double_blocks = nn.ModuleList(_DoubleBlock(shape) for _ in range(shape.double))
        self.single_blocks = nn.ModuleList(_SingleBlock(shape) for _ in range(shape.single))
        self.last, self.out = _Modulation(width, 2), nn.Linear(width, shape.patch)

    def forward(self, latents: Tensor, moments: Tensor, prompt: Tensor, pooled: Tensor) -> Tensor:
        """`pooled` is the prompt's summary, which counts only if the shape has it."""
        embedding: Tensor = self.moment(sinusoids(moments, MOMENT_WIDTH))
        if self.guidance is not None:
            embedding = embedding + self.guidance(sinusoids(moments, MOMENT_WIDTH))
        if self.pooled is not None:
            embedding = embedding + self.pooled(pooled)
        angles = _angles(self.shape, latents, prompt.shape[1])
        text, picture = self.text(prompt), self.into(to_patches(latents, PATCH))
        for block in self.double_blocks:
            text, picture = block(text, picture, embedding, angles)
        tokens = torch.cat([text, picture], 1)
        for block in self.single_blocks:
            tokens = block(tokens, embedding, angles)
        tokens = _modulated(tokens[:, prompt.shape[1] :], *self.last(embedding))
        return from_patches(self.out(tokens), PATCH, latents.shape[2])


def _angles(shape: TransformerShape, latents: Tensor, text: int) -> Tensor:
    """Of `text` tokens, then of the latents' patches."""
    height, width = latents.shape[2] // PATCH, latents.shape[3] // PATCH
    places = [text_positions(text, 3, latents.device), picture_positions(height, width, latents.device)]
    return rotation(torch.cat(places), shape.axes)


EMBEDDING = 256
"""Width of the moment's embedding in one-stream transformers."""


class _OneStreamBlock(nn.Module):
    def __init__(self, shape: TransformerShape, *, modulated: bool) -> None:
        super().__init__()
        width = shape.width
        self.attention = Attention(width, shape.heads, shape.head_width, out_bias=False, normed=True)
        self.feed_forward = GatedFeedForward(width, width * 8 // 3)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(4))
        self.modulation = nn.Linear(EMBEDDING, width * 4) if modulated else None

    def forward(self, tokens: Tensor, embedding: Tensor, angles: Tensor) -> Tensor:
        scale, gate, last_scale, last_gate = self._vectors(tokens, embedding)
        before, after, last_before, last_after = self.norms
        mixed = self.attention(before(tokens) * scale, angles=angles)
        tokens = tokens + gate * after(mixed)
        hidden = self.feed_forward(last_before(tokens) * last_scale)
        out: Tensor = tokens + last_gate * last_after(hidden)
        return out

    def _vectors(self, tokens: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        if self.modulation is None:
            return (tokens.new_ones(()),) * 4
        scale, gate, last_scale, last_gate = self.modulation(embedding)[:, None].chunk(4, -1)
        return 1 + scale, gate.tanh(), 1 + last_scale, last_gate.tanh()


class OneStream(nn.Module):
    """Denoises latents whose sides are multiples of `PATCH`; text and picture are one sequence throughout."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.into = nn.Linear(shape.patch, width)
        self.text = nn.Sequential(nn.RMSNorm(shape.context), nn.Linear(shape.context, width))
        self.moment = TwoLayers(MOMENT_WIDTH, 1024, EMBEDDING)
        self.refiners = nn.ModuleList(_OneStreamBlock(shape, modulated=True) for _ in range(shape.refiners))
        self.readers = nn.ModuleList(_OneStreamBlock(shape, modulated=False) for _ in range(shape.refiners))
        self.blocks = nn.ModuleList(_OneStreamBlock(shape, modulated=True) for _ in range(shape.single))
        self.last, self.out = nn.Linear(EMBEDDING, width), nn.Linear(width, shape.patch)

    def forward(self, latents: Tensor, moments: Tensor, prompt: Tensor, _pooled: Tensor) -> Tensor:
        embedding: Tensor = self.moment(sinusoids(moments, MOMENT_WIDTH))
        length = prompt.shape[1]
        angles = _angles(self.shape, latents, length)
        text, picture = self.text(prompt), self.into(to_patches(latents, PATCH))
        for block in self.refiners:
            picture = block(picture, embedding, angles[length:])
        for block in self.readers:
            text = block(text, embedding, angles[:length])
        tokens = torch.cat([text, picture], 1)
        for block in self.blocks:
            tokens = block(tokens, embedding, angles)
        scale = self.last(F.silu(embedding))[:, None]
        tokens = _modulated(tokens[:, length:], torch.zeros_like(scale), scale)
        return from_patches(self.out(tokens), PATCH, latents.shape[2])
