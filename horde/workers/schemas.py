"""Wire formats of workers, whatever they generate. Class names are part of the published API."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from horde.generation.schemas import EXAMPLE_ID, Maybe
from horde.platform.http.fields import Input, Output
from horde.workers.message_schemas import WorkerMessage

MIN_NEW_NAME = 5
Trimmed = Annotated[str, StringConstraints(strip_whitespace=True)]


class WorkerKudosDetails(Output):
    """What a worker has earned, and how; null for what it has not."""

    generated: float | None = Field(None, description="Kudos for results.")
    uptime: int | None = Field(None, description="Kudos for being online.")


class TeamDetailsLite(Output):
    """The team that a worker belongs to; both are null for a worker without a team."""

    name: str | None = Field(None, description="The team's name.")
    id: str | None = Field(None, description="The team's id.")


class WorkerDetailsLite(Output):
    """Which worker it is."""

    type: Literal["image", "text", "interrogation"] = Field(description="What it generates.")
    name: str = Field(description="Its name.", examples=["Attic GPU"])
    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    online: bool = Field(description="It has asked for jobs lately.")


class WorkerDetails(WorkerDetailsLite):
    """A worker; what does not apply to its type, and what the viewer may not see, is left out."""

    requests_fulfilled: int = Field(description="Results delivered.")
    uncompleted_jobs: int = Field(description="Jobs that it took and lost.")
    kudos_rewards: float = Field(description="Kudos earned.")
    kudos_details: WorkerKudosDetails = Field(
        default_factory=WorkerKudosDetails, description="How they were earned."
    )
    performance: str = Field(
        description="Its speed in words, a number first.", examples=["1.2 megapixelsteps per second"]
    )
    threads: int = Field(description="Jobs it works on at a time.")
    uptime: int = Field(description="Seconds online in all.")
    maintenance_mode: bool = Field(description="It serves only its owner.")
    info: Maybe[str] = Field(None, description="What its owner says about it.")
    nsfw: bool = Field(False, description="Takes requests that may have unsafe results.")
    trusted: bool = Field(description="Its owner is trusted.")
    flagged: bool = Field(description="Its owner is restricted for abuse.")
    team: TeamDetailsLite = Field(default_factory=TeamDetailsLite, description="Its team.")
    bridge_agent: str = Field(
        "unknown:0:unknown",
        max_length=1000,
        description="Its software as name:version:address.",
        examples=["AI Horde Worker reGen:10:https://example.com/worker"],
    )
    models: Maybe[list[str]] = Field(None, description="Models it runs.", examples=[["stable_diffusion"]])
    forms: Maybe[list[str]] = Field(None, description="Alchemy forms it serves.", examples=[["caption"]])
    owner: Maybe[str] = Field(
        None,
        description="Its owner, for the owner and moderators, or everybody if the owner allows it.",
        examples=["somebody#42"],
    )
    ipaddr: Maybe[str] = Field(None, description="Its address, for its owner and moderators.")
    contact: Maybe[str] = Field(
        None,
        min_length=5,
        max_length=500,
        description="How to reach its owner, for the owner and moderators.",
    )
    paused: Maybe[bool] = Field(None, description="It gets no real jobs, for moderators.")
    suspicious: Maybe[int] = Field(None, description="Reasons for suspicion, for moderators.")
    messages: Maybe[list[WorkerMessage]] = Field(
        None,
        description="Messages for it that have not expired. Its owner and moderators see them, and everybody "
        "if the owner allows it.",
    )

    max_pixels: Maybe[int] = Field(None, description="Largest width times height (image).")
    megapixelsteps_generated: Maybe[int] = Field(
        None, description="Millions of pixels times steps delivered (image)."
    )
    img2img: Maybe[bool] = Field(None, description="Takes requests with a source image (image).")
    painting: Maybe[bool] = Field(None, description="Takes inpainting and outpainting (image).")
    post_processing: Maybe[bool] = Field(
        None, alias="post-processing", description="Runs post-processors (image)."
    )
    post_processors: Maybe[list[str]] = Field(
        None, description="Post-processors that it runs (image).", examples=[["GFPGAN"]]
    )
    samplers: Maybe[list[str]] = Field(
        None,
        description="Samplers that its software has, with or without Karras noise (image).",
        examples=[["k_euler_a"]],
    )
    max_batch: Maybe[int] = Field(
        None, description="Most images that it takes at once; left out if it never said so (image)."
    )
    lora: Maybe[bool] = Field(None, description="Applies LoRAs (image).")
    controlnet: Maybe[bool] = Field(None, description="Runs ControlNets (image).")
    sdxl_controlnet: Maybe[bool] = Field(None, description="Runs ControlNets on SDXL (image).")
    max_length: Maybe[int] = Field(None, description="Most tokens per result (text).")
    max_context_length: Maybe[int] = Field(None, description="Most tokens that it reads (text).")
    tokens_generated: Maybe[int] = Field(None, description="Tokens delivered (text).")


class WorkerQuery(Input):
    """Which workers to list."""

    type: str | None = Field(None, description="Only workers of this type: image, text or interrogation.")
    name: str | None = Field(
        None, description="Only the worker of this name in upper or lower case, whatever its type."
    )


class ModifyWorkerInput(Input):
    """What to change of a worker: all of it, or nothing if anything is refused."""

    maintenance: bool | None = Field(None, description="Whether it serves only its owner.")
    maintenance_msg: Trimmed | None = Field(
        None, max_length=300, description="Tell the worker this while in maintenance; needs maintenance."
    )
    paused: bool | None = Field(None, description="Whether it gets no real jobs. For moderators.")
    info: Trimmed | None = Field(
        None, max_length=1000, description="What its owner says about it; empty to say nothing."
    )
    name: Trimmed | None = Field(
        None,
        max_length=100,
        description="Its name. The worker's software must be set to the same, or registers another one.",
        # Of a new name; programs send the present one along, which may be shorter.
        json_schema_extra={"minLength": MIN_NEW_NAME},
    )
    team: str | None = Field(None, max_length=36, description="Id of the team to join; empty to leave.")


class ModifyWorker(Output):
    """What was changed of a worker."""

    maintenance: Maybe[bool] = Field(None, description="It serves only its owner.")
    paused: Maybe[bool] = Field(None, description="It gets no real jobs.")
    info: Maybe[str] = Field(None, description="What its owner says about it.")
    name: Maybe[str] = Field(None, description="Its name.")
    team: Maybe[str] = Field(None, description="The name of its team, or None.")


class DeletedWorker(Output):
    """A worker that is no more."""

    deleted_id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    deleted_name: str = Field(description="Its name.")
