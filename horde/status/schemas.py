"""Wire formats of the server's own state."""

from typing import Literal

from pydantic import Field

from horde.generation.schemas import Maybe
from horde.platform.http.fields import Input, Output


class Heartbeat(Output):
    """Whether this node works. It says nothing of other nodes, so that no two of them fail together."""

    message: Literal["OK", "DOWN", "OVERLOADED"] = Field(
        description="OK, DOWN (no database) or OVERLOADED (calls wait for others)."
    )
    version: str = Field(description="Version of the server.", examples=["1.0.0"])
    queue: int = Field(description="Calls that wait for others of this process to end.")
    threads: int = Field(description="Calls that this process works on at a time.")
    active_count: int = Field(description="Calls that it is answering, this one not counted.")
    db_connection: bool = Field(description="The database answers.")


class HordeModes(Output):
    """Which modes are on."""

    maintenance_mode: Maybe[bool] = Field(None, description="New requests are refused.")
    invite_only_mode: Maybe[bool] = Field(None, description="New workers need an invitation.")
    raid_mode: Maybe[bool] = Field(
        None, description="Calls from doubtful addresses are refused. Only moderators see this."
    )


class HordeModesInput(Input):
    """Which modes to switch on or off; the others stay as they are."""

    maintenance_mode: bool | None = Field(None, description="Refuse new requests. For administrators.")
    invite_only_mode: bool | None = Field(None, description="Refuse new workers that are not invited.")
    raid_mode: bool | None = Field(None, description="Refuse calls from doubtful addresses.")


ModelState = Literal["known", "custom", "all"]
"""Models that the model reference has, those that it lacks, or both."""


class ActiveModelLite(Output):
    """A model by its name."""

    name: str = Field(description="Name of the model.", examples=["stable_diffusion"])
    count: int = Field(description="Threads of workers that serve it.")


class ActiveModel(ActiveModelLite):
    """A model, who serves it and what waits for it."""

    performance: float = Field(description="Mean raw pixelsteps or tokens per second in the last hour.")
    queued: float = Field(description="Raw pixelsteps or tokens of results that wait or are under way.")
    jobs: float = Field(description="Results that wait or are under way.")
    eta: int = Field(description="Seconds until those are done; 10000 while nobody does them.")
    type: Literal["image", "text"] = Field(description="What it generates.")


class ActiveModelQuery(Input):
    """Which models to list."""

    type: str = Field("image", description="Models for this: image or text.")
    min_count: int | None = Field(None, description="Only models that as many threads serve, or more.")
    max_count: int | None = Field(None, description="Only models that as many threads serve, or fewer.")
    model_state: str = Field(
        "all", description="known: those of the model reference; custom: all others; all: both."
    )


class HordePerformance(Output):
    """What the whole horde has to do and can do. Queues hold what waits and what is under way."""

    queued_requests: int = Field(description="Images in the queue.")
    queued_text_requests: int = Field(description="Texts in the queue.")
    worker_count: int = Field(description="Image workers that asked for jobs lately.")
    text_worker_count: int = Field(description="Text workers that did.")
    thread_count: int = Field(description="Threads of these image workers.")
    text_thread_count: int = Field(description="Threads of these text workers.")
    queued_megapixelsteps: float = Field(description="Megapixelsteps of the images in the queue.")
    past_minute_megapixelsteps: float = Field(description="Megapixelsteps delivered in the last minute.")
    queued_forms: float = Field(description="Alchemy forms in the queue.")
    interrogator_count: int = Field(description="Alchemists that asked for jobs lately.")
    interrogator_thread_count: int = Field(description="Threads of these alchemists.")
    queued_tokens: float = Field(description="Tokens of the texts in the queue.")
    past_minute_tokens: float = Field(description="Tokens delivered in the last minute.")


class Newspiece(Output):
    """Something that the operator of this horde has to tell."""

    date_published: str = Field(description="The day.", examples=["2026-01-31"])
    newspiece: str = Field(description="The text, in Markdown.")
    importance: str = Field(description="How much it matters.", examples=["Information"])
    tags: list[str] = Field(description="What it is about.")
    title: str = Field(description="The headline.")
    more_info_urls: list[str] = Field(description="Where to read more.")


class HordeDocument(Output):
    """A document in the format that was asked for."""

    html: Maybe[str] = Field(None, description="The document as HTML.")
    markdown: Maybe[str] = Field(None, description="The document as Markdown.")


class DocumentQuery(Input):
    """How to answer a document."""

    format: str = Field("html", description="html or markdown.")


class ModelStatsQuery(Input):
    """Which models to tell of."""

    model_state: str = Field(
        "known", description="known: those of the model reference; custom: all others; all: both."
    )


class SinglePeriodImgStat(Output):
    """Images delivered in a period."""

    images: int = Field(description="Images.")
    ps: int = Field(description="Pixelsteps of these images.")


class StatsImgTotals(Output):
    """Images delivered up to now."""

    minute: SinglePeriodImgStat = Field(description="In the last minute.")
    hour: SinglePeriodImgStat = Field(description="In the last hour.")
    day: SinglePeriodImgStat = Field(description="In the last 24 hours.")
    month: SinglePeriodImgStat = Field(description="In the last 30 days.")
    total: SinglePeriodImgStat = Field(description="Ever.")


class SinglePeriodTxtStat(Output):
    """Texts delivered in a period."""

    requests: int = Field(description="Texts.")
    tokens: int = Field(description="Tokens of these texts, as asked for.")


class StatsTxtTotals(Output):
    """Texts delivered up to now."""

    minute: SinglePeriodTxtStat = Field(description="In the last minute.")
    hour: SinglePeriodTxtStat = Field(description="In the last hour.")
    day: SinglePeriodTxtStat = Field(description="In the last 24 hours.")
    month: SinglePeriodTxtStat = Field(description="In the last 30 days.")
    total: SinglePeriodTxtStat = Field(description="Ever.")


class ImgModelStats(Output):
    """Images delivered by model."""

    day: dict[str, int] = Field(description="In the last 24 hours.")
    month: dict[str, int] = Field(description="In the last 30 days.")
    total: dict[str, int] = Field(description="Ever.")


class TxtModelStats(Output):
    """Texts delivered by model."""

    day: dict[str, int] = Field(description="In the last 24 hours.")
    month: dict[str, int] = Field(description="In the last 30 days.")
    total: dict[str, int] = Field(description="Ever.")
