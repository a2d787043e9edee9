"""Text encoders: CLIP, T5 and Qwen, all of them rows of attention and feed-forward layers."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kudos_model.measuring.networks.layers import (
    Attention,
    FeedForward,
    GatedFeedForward,
    rotation,
    text_positions,
)

RELATIVE_DISTANCES = 32
"""That T5 tells apart."""


@dataclass(frozen=True, slots=True)
class TextShape:
    """Widths and depths of a text encoder."""

    kind: Literal["clip", "t5", "qwen"]
    vocabulary: int
    width: int
    depth: int
    heads: int
    head_width: int
    hidden: int
    """Width inside the feed-forward layers."""
    tokens: int
    """Of a prompt."""
    key_heads: int | None = None
    """Where there are fewer than `heads`."""
    pooled: int = 0
    """Width of the projection that sums up the prompt; 0: there is none."""
    normed: bool = False
    """Whether queries and keys are normalised."""


class TextEncoder(nn.Module):
    """Reads tokens (batch, length); gives (batch, length, width) and a summary (batch, width or `pooled`)."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        learned = shape.tokens if shape.kind == "clip" else 0
        self.places = nn.Parameter(torch.empty(learned, shape.width))
        distances = RELATIVE_DISTANCES if shape.kind == "t5" else 0
        self.distances = nn.Parameter(torch.empty(distances, shape.heads))
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.depth))
        self.norm = _norm(shape)
        self.summary = nn.Linear(shape.width, shape.pooled, bias=False) if shape.pooled else nn.Identity()

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.words(words)
        length = tokens.shape[1]
        angles = bias = None
        if self.shape.kind == "clip":
            tokens = tokens + self.places[:length]
        elif self.shape.kind == "t5":
            bias = self._relative(length)
        else:
            places = text_positions(length, 1, tokens.device)
            angles = rotation(places, [self.shape.head_width], 1_000_000.0)
        for layer in self.layers:
            tokens = layer(tokens, angles, bias)
        tokens = self.norm(tokens)
        return tokens, self.summary(tokens[:, -1])

    def _relative(self, length: int) -> Tensor:
        places = torch.arange(length, device=self.distances.device)
        apart = (places[None] - places[:, None]).abs().clamp(max=RELATIVE_DISTANCES - 1)
        return self.distances[apart].permute(2, 0, 1)[None]


class _Layer(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        clip = shape.kind == "clip"
        self.causal = shape.kind != "t5"
        self.attention_norm, self.norm = _norm(shape), _norm(shape)
        self.attention = Attention(
            shape.width,
            shape.heads,
            shape.head_width,
            key_heads=shape.key_heads,
            bias=clip,
            out_bias=clip,
            normed=shape.normed,
        )
        feed_forward = FeedForward if clip else GatedFeedForward
        self.feed_forward = feed_forward(shape.width, shape.hidden)

    def forward(self, tokens: Tensor, angles: Tensor | None, bias: Tensor | None) -> Tensor:
        tokens = tokens + self.attention(
            self.attention_norm(tokens), angles=angles, causal=self.causal, bias=bias
        )
        out: Tensor = tokens + self.feed_forward(self.norm(tokens))
        return out


def _norm(shape: TextShape) -> nn.Module:
    return nn.LayerNorm(shape.width) if shape.kind == "clip" else nn.RMSNorm(shape.width)
