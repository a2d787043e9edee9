"""What a model reference file says of each model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Steps = Annotated[int, Field(ge=1, le=500)]
Cfg = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(min_length=1, max_length=255)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]


class Facts(BaseModel):
    """Exact types, no changes afterwards; what we do not use is passed over."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Requirements(Facts):
    """Settings that a model needs to give good pictures; None (or nothing listed): it takes any."""

    min_steps: Steps | None = None
    max_steps: Steps | None = None
    cfg_scale: Cfg | None = None
    min_cfg_scale: Cfg | None = None
    max_cfg_scale: Cfg | None = None
    clip_skip: Annotated[int, Field(ge=1, le=12)] | None = None
    samplers: Texts = ()
    schedulers: Texts = ()
    """`karras` or `simple`."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_steps and self.max_steps and self.min_steps > self.max_steps:
            raise ValueError("min_steps is above max_steps")
        if (
            self.min_cfg_scale is not None
            and self.max_cfg_scale is not None
            and self.min_cfg_scale > self.max_cfg_scale
        ):
            raise ValueError("min_cfg_scale is above max_cfg_scale")
        return self


class ModelFile(Facts):
    """One file that a worker needs on disk to run the model."""

    path: Text
    sha256sum: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = None


class ModelConfig(Facts):
    """What belongs to a model on a worker's disk."""

    files: Annotated[tuple[ModelFile, ...], Field(strict=False)] = ()


class ImageModel(Facts):
    """The facts of one image model. A baseline that no rule knows is allowed: it is then treated plainly."""

    name: Text
    baseline: Text = "stable diffusion 1"
    nsfw: bool = False
    inpainting: bool = False
    type: Text = "ckpt"
    """`ckpt`, or `controlnet` for what cannot be asked for as a model by itself."""
    requirements: Requirements = Requirements()
    features_not_supported: Texts = ()
    """As its author declares, for people to read; rules go by the baseline."""
    config: ModelConfig = ModelConfig()
    size_on_disk_bytes: Annotated[int, Field(ge=0)] | None = None


class TextModel(Facts):
    """The facts of one text model."""

    name: Text
    parameters: Annotated[int, Field(ge=1, le=10**14)]
    """How many it has; prices and rewards follow from it."""
    nsfw: bool = False


M = TypeVar("M", bound=Facts)


@dataclass(frozen=True, slots=True)
class ModelReference(Generic[M]):
    """The models of a reference by name, and why entries were refused (name -> reason)."""

    models: Mapping[str, M]
    refused: Mapping[str, str]
