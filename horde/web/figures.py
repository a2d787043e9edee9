"""The live figures of the start page."""

from dataclasses import dataclass

from horde.platform.runtime import Platform
from horde.status import hours, models, statistics
from horde.status.performance import performance
from horde.web import plots
from horde.web.plots import Bar, short

PLOT_WIDTH, PLOT_HEIGHT = 640.0, 160.0
MODELS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Figures:
    """What the start page tells."""

    cards: list[tuple[str, str, str]]
    """Name, number and explanation."""
    by_hour: list[Bar]
    images: int
    """All of `by_hour`."""
    by_model: list[Bar]


def figures(platform: Platform) -> Figures:
    """How the horde is doing, as of some seconds ago."""
    now = performance(platform)
    images, texts = statistics.image_totals(platform), statistics.text_totals(platform)
    offered = models.active_models(platform, "image", min_count=1, max_count=None, model_state="all")
    offered_texts = models.active_models(platform, "text", min_count=1, max_count=None, model_state="all")
    workers = now.worker_count + now.text_worker_count + now.interrogator_count
    cards = [
        ("Images served", short(images["total"]["images"]), f"{short(images['day']['images'])} in a day"),
        ("Texts served", short(texts["total"]["requests"]), f"{short(texts['day']['requests'])} in a day"),
        ("Workers online", short(workers), f"threads for images: {short(now.thread_count)}"),
        ("Images waiting", short(now.queued_requests), f"{short(now.queued_megapixelsteps)} megapixelsteps"),
        ("Texts waiting", short(now.queued_text_requests), f"{short(now.queued_tokens)} tokens"),
        ("Models", short(len(offered) + len(offered_texts)), f"{len(offered)} of them for images"),
    ]
    last = [(f"{hour:%d %b %H:%M} UTC", float(count)) for hour, count in hours.images_by_hour(platform)]
    wanted = statistics.image_models_delivered(platform, "known")["month"]
    most = sorted(wanted.items(), key=lambda item: (-item[1], item[0]))[:MODELS_SHOWN]
    return Figures(
        cards=cards,
        by_hour=plots.columns(last, PLOT_WIDTH, PLOT_HEIGHT),
        images=int(sum(count for _, count in last)),
        by_model=plots.rows([(name, float(count)) for name, count in most], PLOT_WIDTH),
    )
