"""Wire formats that image, text and alchemy share. Class names are part of the published API."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from horde.platform.http.fields import Input, Output

MANY = 1000
"""Most entries of a list for which no rule sets a limit; it only keeps out bodies made to waste time."""

EXAMPLE_ID = "6f1c2a34-8d5e-4b7a-9c0d-1e2f3a4b5c6d"
EXAMPLE_DATE = "Mon, 23 Nov 2026 16:27:58 -0000"

T = TypeVar("T")

Maybe = Annotated[T | None, Field(exclude_if=lambda value: value is None)]
"""A value that answers leave out when there is none. Bodies may leave it out too, but not send null."""

ModelName = Annotated[str, Field(max_length=255)]
PoppedModelName = Annotated[str, Field(min_length=3, max_length=255)]
Count = Annotated[int, Field(ge=0)]

MetadataType = Literal[
    "lora",
    "ti",
    "censorship",
    "source_image",
    "source_mask",
    "extra_source_images",
    "batch_index",
    "information",
    "aesthetic_score",
]
MetadataValue = Literal["download_failed", "parse_failed", "baseline_mismatch", "csam", "nsfw", "see_ref"]
ModelRequirements = Literal["correct", "warn", "reject"]
WarningCode = Literal[
    "NoAvailableWorker",
    "ClipSkipMismatch",
    "StepsTooFew",
    "StepsTooMany",
    "CfgScaleMismatch",
    "CfgScaleTooSmall",
    "CfgScaleTooLarge",
    "SamplerMismatch",
    "SchedulerMismatch",
]


class ExtraSourceImage(Input):
    """A further picture to start from."""

    image: str = Field(min_length=1, description="The picture in base64, or the https address of one.")
    strength: float = Field(1.0, description="How strongly this picture shapes the result.")


class GenerationInput(Input):
    """What every request for a generation may say, whatever it generates."""

    trusted_workers: bool = Field(False, description="Only workers of trusted owners may serve this.")
    validated_backends: bool = Field(
        False, description="Only workers whose software is known not to alter results may serve this (text)."
    )
    slow_workers: bool = Field(
        True, description="Slow workers may serve this too; without them it costs more and is paid up front."
    )
    extra_slow_workers: bool = Field(
        False, description="Even very slow workers may serve this; results can take an hour."
    )
    workers: list[str] = Field(
        default_factory=list,
        max_length=MANY,
        description="Ids of the workers that may serve this (see worker_blacklist); the first five count.",
        examples=[[EXAMPLE_ID]],
    )
    worker_blacklist: bool = Field(
        False, description="The workers listed are the ones that may not serve this; costs a little more."
    )
    models: list[ModelName] = Field(
        default_factory=list,
        max_length=MANY,
        description="Models any one of which will do; an empty list stands for every model.",
    )
    model_requirements: Maybe[ModelRequirements] = Field(
        None,
        description="What becomes of settings that do not fit the model: moved to the nearest that do, kept "
        "with a warning, or refused. Without it the operator's choice holds.",
    )
    dry_run: bool = Field(False, description="Only say what the request would cost, and do nothing.")
    proxied_account: Maybe[str] = Field(
        None,
        max_length=255,
        description="Whom a service account asks for: any text that identifies its user.",
    )
    disable_batching: bool = Field(
        False, description="Give every job to a worker on its own, which exact seeds need."
    )
    allow_downgrade: bool = Field(
        False, description="Reduce size and steps instead of refusing when kudos are short."
    )
    webhook: Maybe[str] = Field(
        None,
        min_length=10,
        max_length=1024,
        description="An https address that receives each result as it is delivered.",
        examples=["https://example.com/results"],
    )
    style: Maybe[str] = Field(
        None,
        min_length=3,
        max_length=1024,
        description="Id or name of a style or collection that sets model, prompt and parameters.",
    )
    extra_source_images: Maybe[list[ExtraSourceImage]] = Field(
        None, max_length=100, description="Further pictures to start from."
    )


class RequestSingleWarning(Output):
    """A setting that may not work as well as hoped; the request goes on all the same."""

    code: WarningCode = Field(description="What a program decides by.")
    message: str = Field(min_length=1, description="The same in words.")


class RequestChange(Output):
    """A change to a request."""

    field: str = Field(description="Dotted path of the field to change.", examples=["params.width"])
    value: Maybe[Any] = Field(None, description="What to send instead; without it, leave the field out.")


class RequestExplanation(Output):
    """Why no worker that is online can serve a request now, and what would help."""

    workers: int = Field(description="Workers that are online.")
    reasons: dict[str, int] = Field(
        description="How many of them cannot take it for each reason; one may have several.",
        examples=[{"models": 7, "max_pixels": 2}],
    )
    message: str = Field(description="The same in words, with what to do.")
    changes: list[RequestChange] = Field(
        default_factory=list, description="The smallest change after which some worker could serve it."
    )
    would_serve: int = Field(0, description="How many could after that change.")


class RequestDowngrade(Output):
    """What was reduced because kudos were short."""

    width: int = Field(description="Width that will be made.")
    height: int = Field(description="Height that will be made.")
    steps: int = Field(description="Steps that will run; with several models, the most of them.")
    slow_workers: bool = Field(description="Whether slow workers may serve it.")


class RequestAsync(Output):
    """A request was accepted."""

    id: str = Field(description="Ask for progress and results under this id.", examples=[EXAMPLE_ID])
    kudos: float = Field(description="What the whole request is expected to cost.", examples=[12.5])
    message: Maybe[str] = Field(None, description="Something to know; present only if there is.")
    warnings: Maybe[list[RequestSingleWarning]] = Field(
        None, description="Doubtful or changed settings; present only if there are any."
    )
    explain: Maybe[RequestExplanation] = Field(
        None, description="Present only while no worker that is online can serve it."
    )
    downgraded: Maybe[RequestDowngrade] = Field(
        None, description="Present only if it was reduced (see allow_downgrade)."
    )


class RequestStatusCheck(Output):
    """How far a request has got."""

    finished: int = Field(description="Results delivered.")
    processing: int = Field(description="Results that workers are busy with.")
    restarted: int = Field(description="Jobs that failed and were handed out anew.")
    waiting: int = Field(description="Results that no worker has taken yet.")
    done: bool = Field(description="Nothing more will come.")
    faulted: bool = Field(False, description="The request was given up after too many failures.")
    wait_time: int = Field(description="Estimated seconds until all is done.", examples=[18])
    queue_position: int = Field(description="Place in the queue from 1; 0 when nothing waits.")
    kudos: float = Field(description="Spent so far.", examples=[12.0])
    is_possible: bool = Field(True, description="Some worker that is online can serve this.")
    explain: Maybe[RequestExplanation] = Field(
        None, description="Present only while something waits that no worker that is online can serve."
    )


class Generation(Output):
    """One delivered result, whatever its kind."""

    worker_id: str = Field(min_length=36, max_length=36, description="The worker that made it.")
    worker_name: str = Field(description="Name of that worker.")
    model: str = Field(description="The model that made it.", examples=["stable_diffusion"])
    state: Literal["ok", "censored", "csam"] = Field("ok", description="Whether the result was censored.")


class WorkUnderWay(Output):
    """A job that a worker is busy with."""

    worker_id: str = Field(description="The worker that has it.", examples=[EXAMPLE_ID])
    worker_name: str = Field(description="Name of that worker.", examples=["Attic GPU"])
    seconds: int = Field(description="For how long it has had it.", examples=[12])


class PopInput(Input):
    """What every worker says of itself when it asks for a job."""

    name: str = Field(
        description="The worker's name, unique on this server; a new name registers a new worker.",
        examples=["Attic GPU"],
    )
    priority_usernames: list[str] = Field(
        default_factory=list,
        max_length=MANY,
        description="Users to serve first, as name#number.",
        examples=[["somebody#42"]],
    )
    nsfw: bool = Field(True, description="Takes requests that may have unsafe results.")
    models: list[PoppedModelName] = Field(
        default_factory=list,
        max_length=MANY,
        description="Models it can run now; the first 300 count.",
        examples=[["stable_diffusion"]],
    )
    bridge_agent: str = Field(
        "unknown:0:unknown",
        max_length=1000,
        description="The worker's software as name:version:address.",
        examples=["AI Horde Worker reGen:10:https://example.com/worker"],
    )
    threads: int = Field(1, ge=1, le=50, description="Jobs it works on at a time.")
    require_upfront_kudos: bool = Field(False, description="Serves only requesters who can already pay.")
    amount: int = Field(1, ge=1, le=20, description="Most jobs of one request to hand out at once.")
    extra_slow_worker: bool = Field(
        False, description="Is very slow, and gets only requests that accept this."
    )
    wait: float = Field(
        0,
        ge=0,
        le=30,
        description="Seconds that it is ready to wait for a job; the answer comes as soon as there is one.",
        examples=[20],
    )


class NoValidRequestFound(Output):
    """Why waiting requests passed a worker by: how many for each reason; left out when not counted."""

    worker_id: Maybe[Count] = Field(None, description="They ask for other workers, or avoid this one.")
    performance: Maybe[Count] = Field(None, description="They need a faster worker.")
    nsfw: Maybe[Count] = Field(None, description="They may be unsafe and the worker does not take that.")
    blacklist: Maybe[Count] = Field(None, description="Their prompts hold a word that the worker refuses.")
    untrusted: Maybe[Count] = Field(None, description="They need a trusted owner.")
    models: Maybe[Count] = Field(None, description="They name a model that the worker lacks.")
    bridge_version: Maybe[Count] = Field(None, description="They need newer worker software.")
    kudos: Maybe[Count] = Field(None, description="The requester cannot pay up front.")


class ResponseModelMessagePop(Output):
    """A message for the worker's owner to read."""

    id: str = Field(description="Shows whether the message was seen before.", examples=[EXAMPLE_ID])
    message: str = Field(description="What it says.")
    origin: Maybe[str] = Field(None, description="Who says it.", examples=["AI Horde Moderators"])
    expiry: str = Field(
        description="Until when it is shown.",
        examples=[EXAMPLE_DATE],
        json_schema_extra={"format": "date-time"},
    )


class SubmitInput(Input):
    """What every worker hands in when a job has ended."""

    id: str = Field(description="The job's id, as it was popped.", examples=[EXAMPLE_ID])
    generation: Maybe[str] = Field(None, description="The result.")
    state: Literal["ok", "censored", "faulted", "csam"] = Field(
        "ok", description="How the job ended; faulted gives it back to the queue."
    )


class GenerationSubmitted(Output):
    """A result was accepted."""

    reward: float = Field(description="Kudos credited for it.", examples=[10.5])
