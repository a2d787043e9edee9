"""Wire formats of image styles. Class names are part of the published API."""

from pydantic import Field

from horde.generation.schemas import EXAMPLE_ID, Maybe
from horde.image.schemas import (
    CfgScale,
    Denoising,
    ModelPayloadLorasStable,
    ModelPayloadTextualInversionsStable,
    PostProcessor,
    Sampler,
    Side,
    Workflow,
)
from horde.platform.http.fields import DistinctList, Input, JsonObject, Output
from horde.styles.schemas import ShownStyle, StyleInput, StylePatch


class ModelStyleInputParamsStable(Input):
    """The parameters that an image style sets; requests with it set no others but n, and sizes it leaves."""

    sampler_name: Maybe[Sampler] = Field(None, description="The sampler.")
    cfg_scale: Maybe[CfgScale] = Field(None, description="How closely to follow the prompt.")
    denoising_strength: Maybe[Denoising] = Field(None, description="How far to depart from a source image.")
    hires_fix_denoising_strength: Maybe[Denoising] = Field(
        None, description="How far the second pass of hires_fix departs from the first."
    )
    height: Maybe[Side] = Field(None, description="Height in pixels.")
    width: Maybe[Side] = Field(None, description="Width in pixels.")
    post_processing: Maybe[DistinctList[PostProcessor]] = Field(
        None, description="Post-processors to run, in this order; one upscaler at most."
    )
    karras: Maybe[bool] = Field(None, description="Use the Karras noise schedule.")
    tiling: Maybe[bool] = Field(None, description="Make a picture whose edges join.")
    hires_fix: Maybe[bool] = Field(None, description="Draw small first, then refine at full size.")
    clip_skip: Maybe[int] = Field(None, ge=1, le=12, description="Layers of the text encoder to leave out.")
    facefixer_strength: Maybe[float] = Field(
        None, ge=0, le=1.0, description="How strongly face correction works."
    )
    loras: Maybe[list[ModelPayloadLorasStable]] = Field(
        None, max_length=100, description="LoRAs to apply, up to five."
    )
    tis: Maybe[list[ModelPayloadTextualInversionsStable]] = Field(
        None, max_length=100, description="Textual inversions to apply, up to twenty."
    )
    special: Maybe[dict[str, JsonObject]] = Field(
        None, description="What special models need; only for accounts with the special role."
    )
    workflow: Maybe[Workflow] = Field(None, description="A ready-made workflow to run.")
    transparent: Maybe[bool] = Field(None, description="Make a picture with a transparent background.")
    steps: Maybe[int] = Field(None, ge=1, le=500, description="Sampling steps.")


class ModelStyleInputStable(StyleInput):
    """A new image style."""

    prompt: str = Field(
        "{p}{np}",
        min_length=7,
        description="What to show; {p} stands for somebody's prompt, {np} for what they want to avoid.",
        examples=["{p}, oil painting###blurry, {np}"],
    )
    params: ModelStyleInputParamsStable = Field(
        default_factory=ModelStyleInputParamsStable, description="How to generate."
    )


class ModelStylePatchStable(StylePatch):
    """What to change of an image style."""

    prompt: str | None = Field(
        None,
        min_length=7,
        description="What to show; {p} stands for somebody's prompt, {np} for what they want to avoid.",
    )
    params: ModelStyleInputParamsStable | None = Field(None, description="How to generate.")


class StyleExample(Output):
    """A picture that shows what a style does."""

    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    url: str = Field(description="Where it is.")
    primary: bool = Field(description="Show this one first.")


class StyleStable(ShownStyle):
    """An image style."""

    prompt: str = Field(
        "{p}{np}",
        min_length=7,
        description="What is shown; {p} stands for somebody's prompt, {np} for what they want to avoid.",
    )
    params: ModelStyleInputParamsStable | None = Field(None, description="How to generate.")
    examples: list[StyleExample] = Field(default_factory=list, description="Pictures made with it.")
