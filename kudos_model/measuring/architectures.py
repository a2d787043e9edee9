"""The architecture of each baseline that timings are measured of: its true one, and a tiny one alike.

Widths and depths are the published ones. What is approximated:

- a prompt has the length that programs pad it to, or for Qwen encoders that of a longer prompt;
- the positions of T5 are told apart by distance, not by the logarithm of it;
- Qwen-Image's autoencoder lacks the layers that only videos pass;
- Stable Cascade reads source images with convolutions of about the true widths (`networks.cascade`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from kudos_model.measuring.networks.autoencoder import AutoencoderShape
from kudos_model.measuring.networks.cascade import StageAShape, StageShape
from kudos_model.measuring.networks.text import TextShape
from kudos_model.measuring.networks.transformer import TransformerShape
from kudos_model.measuring.networks.unet import UNetShape


@dataclass(frozen=True, slots=True)
class LaterStages:
    """What stands in an autoencoder's place in Stable Cascade: stages B and A, after stage C."""

    b: StageShape
    a: StageAShape


Network = UNetShape | TransformerShape | StageShape


@dataclass(frozen=True, slots=True)
class Architecture:
    """All networks that a baseline needs."""

    text: tuple[TextShape, ...]
    """The first sums up the prompt; the last gives its tokens."""
    network: Network
    """Denoises latents."""
    pictures: AutoencoderShape | LaterStages
    """Makes pictures of latents."""
    guided: bool
    """Whether the network runs for the prompt and for its opposite (classifier-free guidance)."""
    native: int
    """Side of the pictures it was made for, in pixels; hires fix composes at this size."""
    joined: bool = False
    """Whether the network reads the tokens of all encoders side by side."""


_CLIP_L = TextShape(
    "clip", vocabulary=49_408, width=768, depth=12, heads=12, head_width=64, hidden=3072, tokens=77
)
_CLIP_H = replace(_CLIP_L, width=1024, depth=23, heads=16, hidden=4096)
_CLIP_G = replace(_CLIP_L, width=1280, depth=32, heads=20, hidden=5120, pooled=1280)
_T5_XXL = TextShape(
    "t5", vocabulary=32_128, width=4096, depth=24, heads=64, head_width=64, hidden=10_240, tokens=256
)
_QWEN_7B = TextShape(
    "qwen",
    vocabulary=152_064,
    width=3584,
    depth=28,
    heads=28,
    key_heads=4,
    head_width=128,
    hidden=18_944,
    tokens=128,
)
_QWEN_4B = TextShape(
    "qwen",
    vocabulary=151_936,
    width=2560,
    depth=36,
    heads=32,
    key_heads=8,
    head_width=128,
    hidden=9728,
    tokens=128,
    normed=True,
)
_KL = AutoencoderShape((128, 256, 512, 512), latents=4)
_KL_16 = replace(_KL, latents=16)
_VIDEO = AutoencoderShape((96, 192, 384, 384), latents=16, video=True)

_SD1 = UNetShape((320, 640, 1280, 1280), transformers=(1, 1, 1, 0), context=768, heads=8)
_SD2 = replace(_SD1, context=1024, heads=None)
_SDXL = UNetShape((320, 640, 1280), transformers=(0, 2, 10), context=2048, pooled=1280)
_FLUX = TransformerShape(
    3072, heads=24, context=4096, axes=(16, 56, 56), double=19, single=38, pooled=768, guided=True
)
_QWEN = TransformerShape(3072, heads=24, context=3584, axes=(16, 56, 56), double=60)
_Z_IMAGE = TransformerShape(3840, heads=30, context=2560, axes=(32, 48, 48), single=30, refiners=2)
_STAGE_C = StageShape(
    channels=(2048, 2048),
    down=(8, 24),
    up=(8, 24),
    repeats=(1, 1),
    heads=(32, 32),
    condition=2048,
    latents=16,
    patch=1,
    shrinking=False,
    pooled=1280,
    text=1280,
    image=768,
    moments=3,
)
_STAGE_B = StageShape(
    channels=(320, 640, 1280, 1280),
    down=(2, 6, 28, 6),
    up=(2, 6, 28, 6),
    repeats=(2, 2, 3, 3),
    heads=(0, 0, 20, 20),
    condition=1280,
    latents=4,
    patch=2,
    shrinking=True,
    pooled=1280,
    guide=16,
    moments=2,
)
_STAGE_A = StageAShape(width=384, depth=12, latents=4, encoder=(24, 48, 64, 160, 256), small_latents=16)

TRUE: Mapping[str, Architecture] = MappingProxyType(
    {
        "stable diffusion 1": Architecture((_CLIP_L,), _SD1, _KL, guided=True, native=512),
        "stable diffusion 2": Architecture((_CLIP_H,), _SD2, _KL, guided=True, native=512),
        "stable_diffusion_xl": Architecture(
            (_CLIP_G, _CLIP_L), _SDXL, _KL, guided=True, native=1024, joined=True
        ),
        "stable_cascade": Architecture(
            (_CLIP_G,), _STAGE_C, LaterStages(_STAGE_B, _STAGE_A), guided=True, native=1024
        ),
        "flux_1": Architecture((_CLIP_L, _T5_XXL), _FLUX, _KL_16, guided=False, native=1024),
        "qwen_image": Architecture((_QWEN_7B,), _QWEN, _VIDEO, guided=True, native=1024),
        "z_image_turbo": Architecture((_QWEN_4B,), _Z_IMAGE, _KL_16, guided=False, native=1024),
    }
)
"""By baseline."""


def _tiny_text(shape: TextShape) -> TextShape:
    return replace(
        shape,
        vocabulary=16,
        width=32,
        depth=2,
        heads=4,
        head_width=8,
        hidden=64,
        tokens=8,
        key_heads=2 if shape.key_heads else None,
        pooled=32 if shape.pooled else 0,
    )


def _tiny_network(shape: Network, context: int) -> Network:
    match shape:
        case UNetShape():
            return replace(
                shape,
                channels=(8, *[16] * (len(shape.channels) - 1)),
                transformers=tuple(min(depth, 1) for depth in shape.transformers),
                context=context,
                heads=2 if shape.heads else None,
                head_width=8,
                pooled=32 if shape.pooled else 0,
                groups=4,
            )
        case TransformerShape():
            return replace(
                shape,
                width=32,
                heads=2,
                context=context,
                axes=(4, 6, 6),
                double=min(shape.double, 2),
                single=min(shape.single, 2),
                refiners=min(shape.refiners, 1),
                pooled=32 if shape.pooled else 0,
            )
        case StageShape():
            return _tiny_stage(shape)


def _tiny_stage(shape: StageShape) -> StageShape:
    levels = len(shape.channels)
    return replace(
        shape,
        channels=(16,) * levels,
        down=(1,) * levels,
        up=(2,) * levels,
        heads=tuple(min(heads, 2) for heads in shape.heads),
        condition=16,
        pooled=32,
        text=32 if shape.text else 0,
        image=8 if shape.image else 0,
    )


def _tiny_pictures(shape: AutoencoderShape | LaterStages) -> AutoencoderShape | LaterStages:
    if isinstance(shape, LaterStages):
        return LaterStages(_tiny_stage(shape.b), replace(shape.a, width=16, depth=1, encoder=(8,) * 5))
    return replace(shape, channels=(8,) * len(shape.channels), groups=4)


def _tiny(architecture: Architecture) -> Architecture:
    text = tuple(map(_tiny_text, architecture.text))
    context = sum(shape.width for shape in text) if architecture.joined else text[-1].width
    return replace(
        architecture,
        text=text,
        network=_tiny_network(architecture.network, context),
        pictures=_tiny_pictures(architecture.pictures),
        native=architecture.native // 8,
    )


TINY: Mapping[str, Architecture] = MappingProxyType(
    {baseline: _tiny(architecture) for baseline, architecture in TRUE.items()}
)
"""By baseline: for trying out the code, in milliseconds on any machine."""
