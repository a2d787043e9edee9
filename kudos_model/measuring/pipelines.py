"""What a worker does for an image, from the prompt to the pixels, with the networks of an architecture."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it so
from torch import Tensor, nn

from kudos_model.features import JobFeatures
from kudos_model.measuring.architectures import Architecture, LaterStages, Network
from kudos_model.measuring.networks.autoencoder import Autoencoder, AutoencoderShape
from kudos_model.measuring.networks.cascade import Stage, StageA, StageShape
from kudos_model.measuring.networks.text import TextEncoder
from kudos_model.measuring.networks.transformer import OneStream, TransformerShape, TwoStreams
from kudos_model.measuring.networks.unet import UNet, UNetShape
from kudos_model.measuring.samplers import Denoise, sample

SIDE_UNIT = 64
"""Sides of pictures are multiples of this many pixels."""


def first_pass(width: int, height: int, native: int) -> tuple[int, int]:
    """The size that hires fix composes a picture of this size at: the shorter side is the native one.

    Pictures that are no larger are composed at their own size; one pass is enough for them.
    """
    scale = min(1.0, native / min(width, height))
    return round(width * scale / SIDE_UNIT) * SIDE_UNIT, round(height * scale / SIDE_UNIT) * SIDE_UNIT


def build(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> "Pipeline":
    """A pipeline with random weights, as large as trained ones so that nothing fades out or overflows."""
    with torch.device("meta"):
        pipeline = Pipeline(architecture)
    pipeline.to(dtype=dtype).to_empty(device=device)
    with torch.no_grad():
        for name, weights in pipeline.named_parameters():
            if weights.dim() == 1 and not name.endswith("bias"):
                weights.fill_(1)  # norms
            else:
                weights.normal_(std=0.02)
    return pipeline


class Pipeline(nn.Module):
    """All networks of a baseline, and the order that they run in."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.text = nn.ModuleList(map(TextEncoder, architecture.text))
        self.network = _network(architecture.network)
        self.pictures = _pictures(architecture.pictures)

    def forward(self, job: JobFeatures, batch: int) -> Tensor:
        """Pictures (batch, 3, height, width) of a job whose sides are multiples of `SIDE_UNIT`.

        Control, post-processing, masks and LoRAs are left out. With a source image all steps are run,
        however little is to be changed: so do the workers that the committed timings are of.
        """
        with torch.inference_mode():
            prompt = self._read(batch)
            size = last = (job.width, job.height)
            if job.hires_fix:
                size = first_pass(*size, self.architecture.native)
            steps = self.pictures.share_left(job.steps)
            denoise = prompt.denoising(self.network, job.cfg_scale)
            latents = sample(denoise, self._start(job, batch, size), job.sampler, steps)
            if size != last:
                larger = F.interpolate(latents, size=self.pictures.latent_size(*last), mode="bilinear")
                latents = sample(denoise, larger, job.sampler, steps)
            return self.pictures.decode(latents, job, prompt)

    def _read(self, batch: int) -> "_Prompt":
        """Read the prompt, and its opposite if there is one; then repeat what it says for each image."""
        prompts = 2 if self.architecture.guided else 1
        device = next(self.parameters()).device
        read = [
            encoder(torch.zeros(prompts, shape.tokens, dtype=torch.int64, device=device))
            for encoder, shape in zip(self.text, self.architecture.text, strict=True)
        ]
        tokens = [tokens for tokens, _ in read]
        joined = torch.cat(tokens, -1) if self.architecture.joined else tokens[-1]
        pooled: Tensor = read[0][1]
        return _Prompt(
            joined.repeat_interleave(batch, 0), pooled.repeat_interleave(batch, 0), self.architecture.guided
        )

    def _start(self, job: JobFeatures, batch: int, size: tuple[int, int]) -> Tensor:
        """Latents of the source image, or noise."""
        weights = next(self.parameters())
        if job.source_image:
            width, height = size
            return self.pictures.encode(weights.new_empty(batch, 3, height, width).normal_())
        sides = self.pictures.latent_size(*size)
        return weights.new_empty(batch, self.architecture.network.latents, *sides).normal_()


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What encoders made of the prompts of a batch; with guidance, first of all their opposites."""

    tokens: Tensor
    pooled: Tensor
    guided: bool

    def denoising(self, network: nn.Module, scale: float, *guide: Tensor) -> Denoise:
        """Denoise by a network; with guidance it runs for the prompts and their opposites at once."""

        def plain(latents: Tensor, moments: Tensor) -> Tensor:
            noise: Tensor = network(latents, moments, self.tokens, self.pooled, *guide)
            return noise

        def guided(latents: Tensor, moments: Tensor) -> Tensor:
            without, wanted = plain(latents.repeat(2, 1, 1, 1), moments.repeat(2)).chunk(2)
            return without + scale * (wanted - without)

        return guided if self.guided else plain


class _Pictures(nn.Module, ABC):
    """What stands between latents and pictures."""

    def share_left(self, steps: int) -> int:
        """The steps that are left to the network before."""
        return steps

    @abstractmethod
    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the latents of a picture."""

    @abstractmethod
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures."""

    @abstractmethod
    def decode(self, latents: Tensor, job: JobFeatures, prompt: _Prompt) -> Tensor:
        """Pictures of latents."""


class _Plain(_Pictures):
    """An autoencoder."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.factor = shape.factor
        self.autoencoder = Autoencoder(shape)

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        return height // self.factor, width // self.factor

    def encode(self, pictures: Tensor) -> Tensor:
        return self.autoencoder.encode(pictures)

    def decode(self, latents: Tensor, _job: JobFeatures, _prompt: _Prompt) -> Tensor:
        return self.autoencoder.decode(latents)


class _Staged(_Pictures):
    """Stages B and A of Stable Cascade."""

    STEPS = 1 / 3
    """Share of the job's steps that stage B takes, as in the usual 20 of stage C and 10 of stage B."""
    GUIDANCE = 1.1
    FACTOR = 42
    """By which stage C's latents are narrower than pictures."""
    ENCODED = 32
    """By which they are narrower than what their encoder sees."""

    def __init__(self, shape: LaterStages) -> None:
        super().__init__()
        self.latents = shape.b.latents
        self.b, self.a = Stage(shape.b), StageA(shape.a)

    def share_left(self, steps: int) -> int:
        return max(1, steps - self._steps(steps))

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        return height // self.FACTOR, width // self.FACTOR

    def encode(self, pictures: Tensor) -> Tensor:
        height, width = self.latent_size(pictures.shape[3], pictures.shape[2])
        seen = F.interpolate(pictures, size=(height * self.ENCODED, width * self.ENCODED), mode="bilinear")
        return self.a.encode(seen)

    def decode(self, latents: Tensor, job: JobFeatures, prompt: _Prompt) -> Tensor:
        sides = job.height // StageA.FACTOR, job.width // StageA.FACTOR
        noise = latents.new_empty(len(latents), self.latents, *sides).normal_()
        guide = latents.repeat(2 if prompt.guided else 1, 1, 1, 1)
        denoise = prompt.denoising(self.b, self.GUIDANCE, guide)
        return self.a.decode(sample(denoise, noise, job.sampler, self._steps(job.steps)))

    def _steps(self, steps: int) -> int:
        return max(1, round(steps * self.STEPS))


def _network(shape: Network) -> nn.Module:
    match shape:
        case UNetShape():
            return UNet(shape)
        case StageShape():
            return Stage(shape)
        case TransformerShape():
            return TwoStreams(shape) if shape.double else OneStream(shape)


def _pictures(shape: AutoencoderShape | LaterStages) -> _Pictures:
    return _Staged(shape) if isinstance(shape, LaterStages) else _Plain(shape)
