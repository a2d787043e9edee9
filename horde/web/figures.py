"""The live figures of the start page."""

from dataclasses import dataclass

from horde.platform.runtime import Platform
from horde.status import hours, models, statistics
from horde.status.performance import performance
from horde.web import plots
from horde.web.plots import Bar, short

PLOT_WIDTH, PLOT_HEIGHT = 640.0, 160.0
MODELS_SHOWN = 8
MPS = "megapixelsteps"


@dataclass(frozen=True, slots=True)
class Figures:
    """What the start page tells."""

    cards: list[tuple[str, str, str]]
    """Name, number and explanation."""
    by_hour: list[Bar]
    images: int
    """All of `by_hour`, and"""
    most: int
    """those of the hour that had most."""
    by_model: list[Bar]


def figures(platform: Platform) -> Figures:
    """How the horde is doing, as of some seconds ago."""
    now = performance(platform)
    images, texts = statistics.image_totals(platform), statistics.text_totals(platform)
    offered = models.active_models(platform, "image", min_count=1, max_count=None, model_state="all")
    offered_texts = models.active_models(platform, "text", min_count=1, max_count=None, model_state="all")
    cards = [
        (
            "Images served",
            short(images["total"]["images"]),
            f"{short(images['day']['images'])} in a day; {short(images['total']['ps'])} pixelsteps ever",
        ),
        (
            "Texts served",
            short(texts["total"]["requests"]),
            f"{short(texts['day']['requests'])} in a day; {short(texts['total']['tokens'])} tokens ever",
        ),
        ("Models", short(len(offered) + len(offered_texts)), f"{short(len(offered))} of them for images"),
        ("Images in the queue", short(now.queued_requests), f"{short(now.queued_megapixelsteps)} {MPS}"),
        ("Texts in the queue", short(now.queued_text_requests), f"{short(now.queued_tokens)} tokens"),
        ("Alchemy in the queue", short(now.queued_forms), "captions, upscaling and the like"),
        (
            "Workers for images",
            short(now.worker_count),
            f"threads: {short(now.thread_count)}; "
            f"{short(now.past_minute_megapixelsteps)} {MPS} in the last minute",
        ),
        (
            "Workers for texts",
            short(now.text_worker_count),
            f"threads: {short(now.text_thread_count)}; "
            f"{short(now.past_minute_tokens)} tokens in the last minute",
        ),
        (
            "Workers for alchemy",
            short(now.interrogator_count),
            f"threads: {short(now.interrogator_thread_count)}",
        ),
    ]
    last = [(f"{hour:%d %b %H:%M} UTC", float(count)) for hour, count in hours.images_by_hour(platform)]
    wanted = statistics.image_models_delivered(platform, "known")["month"]
    most = sorted(wanted.items(), key=lambda item: (-item[1], item[0]))[:MODELS_SHOWN]
    return Figures(
        cards=cards,
        by_hour=plots.columns(last, PLOT_WIDTH, PLOT_HEIGHT),
        images=int(sum(count for _, count in last)),
        most=int(max(count for _, count in last)),
        by_model=plots.rows([(name, float(count)) for name, count in most], PLOT_WIDTH),
    )
