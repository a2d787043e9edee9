"""Wire formats of image generation. Class names are part of the published API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidatorFunctionWrapHandler, WrapValidator

from horde.generation.schemas import (
    EXAMPLE_ID,
    MANY,
    ExtraSourceImage,
    Generation,
    GenerationInput,
    Maybe,
    MetadataType,
    MetadataValue,
    ModelName,
    NoValidRequestFound,
    PopInput,
    RequestStatusCheck,
    ResponseModelMessagePop,
    SubmitInput,
    WorkUnderWay,
)
from horde.platform.http.fields import DistinctList, Input, JsonObject, Output

Sampler = Literal[
    "k_lms",
    "k_heun",
    "k_euler",
    "k_euler_a",
    "k_dpm_2",
    "k_dpm_2_a",
    "k_dpm_fast",
    "k_dpm_adaptive",
    "k_dpmpp_2s_a",
    "k_dpmpp_2m",
    "dpmsolver",
    "k_dpmpp_sde",
    "DDIM",
    "lcm",
]
PostProcessor = Literal[
    "GFPGAN",
    "RealESRGAN_x4plus",
    "RealESRGAN_x2plus",
    "RealESRGAN_x4plus_anime_6B",
    "NMKD_Siax",
    "4x_AnimeSharp",
    "CodeFormers",
    "strip_background",
    "4xNomos8kSC",
    "4xLSDIRplus",
    "4xNomosWebPhoto_RealPLKSR",
    "4xNomos2_realplksr_dysample",
    "4xNomos2_hq_dat2",
    "2xModernSpanimationV1",
    "GFPGANv1.3",
    "RestoreFormer",
]
ControlType = Literal[
    "canny", "hed", "depth", "normal", "openpose", "seg", "scribble", "fakescribbles", "hough"
]
SourceProcessing = Literal["img2img", "inpainting", "outpainting", "remix"]
Workflow = Literal["qr_code"]

Side = Annotated[int, Field(ge=64, le=3072, multiple_of=64)]
CfgScale = Annotated[float, Field(ge=0, le=100)]
Denoising = Annotated[float, Field(ge=0.01, le=1.0)]
Strength = Annotated[float, Field(ge=-5.0, le=5.0)]


def _empty_is_absent(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return None if value == "" else validate(value)


ControlTypeOrEmpty = Annotated[ControlType, WrapValidator(_empty_is_absent)]
"""A widely used front end sends "" for "no control type"."""


class ModelPayloadLorasStable(Input):
    """A LoRA to apply."""

    name: str = Field(
        min_length=1,
        max_length=255,
        description="Its name or page id; with is_version, the id of one version.",
        examples=["247778"],
    )
    model: Strength = Field(1.0, description="Strength on the image model.")
    clip: Strength = Field(1.0, description="Strength on the text encoder.")
    inject_trigger: Maybe[str] = Field(
        None,
        min_length=1,
        max_length=30,
        description="Add the LoRA's trigger word that holds this text; any stands for the first one.",
    )
    is_version: bool = Field(False, description="The name is the id of a version, in digits.")


class ModelPayloadTextualInversionsStable(Input):
    """A textual inversion to apply."""

    name: str = Field(min_length=1, max_length=255, description="Its name or id.", examples=["7808"])
    inject_ti: Maybe[Literal["prompt", "negprompt"]] = Field(
        None, description="Add it to this part of the prompt; without it, the prompt names it itself."
    )
    strength: Strength = Field(1.0, description="Its weight where it is added.")


class ExtraText(Input):
    """A text that a workflow needs beside the prompt."""

    text: str = Field(min_length=1, description="The text.", examples=["https://example.com"])
    reference: str = Field(min_length=3, description="What the workflow knows it by.", examples=["qr_code"])


class ModelPayloadRootStable(BaseModel):
    """The parameters that a request sets and a worker receives."""

    sampler_name: Sampler = Field("k_euler_a", description="The sampler.")
    cfg_scale: CfgScale = Field(
        5.0, description="How closely to follow the prompt; at most two decimals.", examples=[5.0]
    )
    denoising_strength: Maybe[Denoising] = Field(
        None, description="How far to depart from the source image.", examples=[0.75]
    )
    hires_fix_denoising_strength: Maybe[Denoising] = Field(
        None, description="How far the second pass of hires_fix departs from the first."
    )
    height: Side = Field(512, description="Height in pixels.")
    width: Side = Field(512, description="Width in pixels.")
    seed: Maybe[str] = Field(
        None,
        max_length=1000,
        description="A number or any text; the same seed repeats a picture. Empty for a random one.",
        examples=["3735928559"],
    )
    seed_variation: Maybe[int] = Field(
        None, ge=1, le=1000, description="By how much the seed grows from one image to the next."
    )
    karras: bool = Field(True, description="Use the Karras noise schedule.")
    tiling: bool = Field(False, description="Make a picture whose edges join.")
    hires_fix: bool = Field(False, description="Draw small first, then refine at full size.")
    clip_skip: Maybe[int] = Field(
        None, ge=1, le=12, description="Layers of the text encoder to leave out, counted from 1."
    )
    facefixer_strength: Maybe[float] = Field(
        None, ge=0, le=1.0, description="How strongly face correction works."
    )
    post_processing: Maybe[DistinctList[PostProcessor]] = Field(
        None,
        description="Post-processors to run, in this order; one upscaler at most.",
        examples=[["GFPGAN"]],
    )
    control_type: Maybe[ControlTypeOrEmpty] = Field(
        None, description="The ControlNet to guide the picture with; needs a source image."
    )
    image_is_control: bool = Field(False, description="The source image already is a control map.")
    return_control_map: bool = Field(False, description="Return the control map instead of a picture.")
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
    extra_texts: Maybe[list[ExtraText]] = Field(
        None, max_length=100, description="Texts that the workflow needs."
    )
    transparent: bool = Field(False, description="Make a picture with a transparent background.")


class ModelGenerationInputStable(ModelPayloadRootStable, Input):
    """The parameters of an image request."""

    steps: int = Field(
        30, ge=1, le=500, description="Sampling steps; 20 is the default and 40 the most with a control type."
    )
    n: int = Field(1, ge=1, le=20, description="How many images to make.")


class GenerationInputStable(GenerationInput):
    """A request for images."""

    prompt: str = Field(
        min_length=1,
        description="What to show; after ###, what to avoid.",
        examples=["a lighthouse at dawn, oil painting ### blurry, text"],
    )
    params: ModelGenerationInputStable = Field(
        default_factory=ModelGenerationInputStable, description="How to generate."
    )
    models: list[ModelName] = Field(
        ["stable_diffusion"],
        max_length=MANY,
        description="Models any one of which will do; an empty list stands for every model.",
        examples=[["stable_diffusion"]],
    )
    nsfw: bool = Field(True, description="The result may be unsafe; only workers that take this serve it.")
    censor_nsfw: bool = Field(
        True, description="If the request is not nsfw, replace results that turn out unsafe all the same."
    )
    source_image: Maybe[str] = Field(
        None, description="A picture to start from: base64, or the https address of one."
    )
    source_processing: SourceProcessing = Field("img2img", description="What to do with the source image.")
    source_mask: Maybe[str] = Field(
        None, description="Which part of the source image to paint anew: base64 or an https address."
    )
    r2: bool = Field(True, description="Give results as addresses to download; otherwise in base64.")
    shared: bool = Field(False, description="Allow the results to be shared with others.")
    replacement_filter: bool = Field(
        True, description="Rewrite a prompt that breaks the rules, where possible, instead of refusing it."
    )


class GenerationMetadataStable(Input):
    """Something that happened while an image was made."""

    type: MetadataType = Field(description="What it is about.")
    value: MetadataValue = Field(description="What happened.")
    ref: Maybe[str] = Field(
        None, max_length=255, description="Which one it concerns, or the value that see_ref refers to."
    )


class GenerationStable(Generation):
    """One delivered image."""

    img: str = Field(description="Address of the image, or the image itself in base64 (see r2).")
    seed: str = Field(description="The seed that made it.", examples=["3735928559"])
    id: str = Field(description="The job's id.", examples=[EXAMPLE_ID])
    censored: bool = Field(description="The worker replaced the image.")
    gen_metadata: list[GenerationMetadataStable] = Field(
        default_factory=list, description="What happened while it was made."
    )


class RequestStatusStable(RequestStatusCheck):
    """How far an image request has got, with the images so far."""

    generations: list[GenerationStable] = Field(default_factory=list, description="The images so far.")
    shared: bool = Field(False, description="The images are shared with others.")
    processing_by: Maybe[list[WorkUnderWay]] = Field(
        None, description="Who works on it now, one entry for each job; present only if somebody does."
    )


class PopInputStable(PopInput):
    """An image worker asks for a job."""

    max_pixels: int = Field(262144, description="Largest width times height that it can make.")
    blacklist: list[str] = Field(
        default_factory=list,
        max_length=10 * MANY,
        description="Words whose prompts it refuses; the first 200 count, and 100 characters of each.",
    )
    allow_img2img: bool = Field(True, description="Takes requests with a source image.")
    allow_painting: bool = Field(True, description="Takes inpainting and outpainting.")
    allow_unsafe_ipaddr: bool = Field(True, description="Takes requests from doubtful addresses.")
    allow_post_processing: bool = Field(True, description="Runs post-processors.")
    allow_controlnet: bool = Field(False, description="Runs ControlNets.")
    allow_sdxl_controlnet: bool = Field(False, description="Runs ControlNets and transparency on SDXL.")
    allow_lora: bool = Field(False, description="Downloads and applies LoRAs.")
    limit_max_steps: bool = Field(False, description="Refuses unusually many steps.")


class ModelPayloadStable(ModelPayloadRootStable, Output):
    """What the worker is to make."""

    prompt: Maybe[str] = Field(None, description="What to show; after ###, what to avoid.")
    cfg_scale: CfgScale = Field(7.5, description="How closely to follow the prompt.")
    karras: bool = Field(False, description="Use the Karras noise schedule.")
    ddim_steps: int = Field(30, description="Sampling steps.")
    n_iter: int = Field(1, description="How many images to make: one for each of ids.")
    use_nsfw_censor: Maybe[bool] = Field(None, description="Replace the image if it turns out unsafe.")


class NoValidRequestFoundStable(NoValidRequestFound):
    """Why waiting image requests passed the worker by."""

    max_pixels: Maybe[int] = Field(None, description="They are too large.")
    unsafe_ip: Maybe[int] = Field(None, description="They come from doubtful addresses.")
    img2img: Maybe[int] = Field(None, description="They have a source image.")
    painting: Maybe[int] = Field(None, description="They need inpainting or outpainting.")
    post_processing: Maybe[int] = Field(
        None, alias="post-processing", description="They need post-processing."
    )
    lora: Maybe[int] = Field(None, description="They need a LoRA.")
    controlnet: Maybe[int] = Field(None, description="They need a ControlNet.")
    step_count: Maybe[int] = Field(None, description="They ask for more steps than the worker takes.")


class GenerationPayloadStable(Output):
    """Jobs for an image worker, or the reasons why there are none."""

    id: str | None = Field(None, description="The first job's id; null when there is none.")
    ids: list[str] = Field(default_factory=list, description="Ids of all jobs.", examples=[[EXAMPLE_ID]])
    payload: ModelPayloadStable = Field(
        default_factory=ModelPayloadStable, description="What to make; only defaults when there is no job."
    )
    model: str | None = Field(None, description="The model to use.", examples=["stable_diffusion"])
    ttl: int | None = Field(None, description="Seconds until the jobs count as lost.")
    source_image: str | None = Field(None, description="Address of the source image, or its base64.")
    source_processing: SourceProcessing = Field("img2img", description="What to do with the source image.")
    source_mask: str | None = Field(None, description="Address of the mask, or its base64.")
    extra_source_images: list[ExtraSourceImage] | None = Field(
        None, description="Further pictures to start from."
    )
    r2_upload: str | None = Field(None, description="Where to PUT the first image, as WebP.")
    r2_uploads: list[str] | None = Field(None, description="Where to PUT each image, in the order of ids.")
    skipped: NoValidRequestFoundStable = Field(
        default_factory=NoValidRequestFoundStable, description="Why there is no job; empty when there is."
    )
    messages: list[ResponseModelMessagePop] = Field(
        default_factory=list, description="Messages for the worker's owner."
    )


class SubmitInputStable(SubmitInput):
    """An image worker hands in a result."""

    seed: int = Field(description="The seed that was used.", examples=[3735928559])
    censored: bool = Field(False, description="Obsolete: say it in gen_metadata.")
    gen_metadata: list[GenerationMetadataStable] = Field(
        default_factory=list, max_length=MANY, description="What happened while it was made; up to 50."
    )
