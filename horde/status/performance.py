"""What the whole horde has to do and can do, in thirteen numbers."""

from horde.platform.runtime import Platform
from horde.status.schemas import HordePerformance
from horde.status.standing import standing

MEGA = 1_000_000


def performance(platform: Platform) -> HordePerformance:
    """How much waits and who is there to do it, as of some seconds ago."""
    now = standing(platform)
    image, text, alchemy = now["image"], now["text"], now["interrogation"]
    return HordePerformance(
        queued_requests=image.queued.results,
        queued_text_requests=text.queued.results,
        worker_count=image.workers,
        text_worker_count=text.workers,
        thread_count=image.threads,
        text_thread_count=text.threads,
        queued_megapixelsteps=round(image.queued.things / MEGA, 2),
        past_minute_megapixelsteps=round(image.past_minute / MEGA, 2),
        queued_forms=float(alchemy.queued.results),
        interrogator_count=alchemy.workers,
        interrogator_thread_count=alchemy.threads,
        queued_tokens=round(text.queued.things, 2),
        past_minute_tokens=round(text.past_minute, 2),
    )
