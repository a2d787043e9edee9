"""A worker without a model: it draws an abstract picture for every image job.

It exists so that a horde can be tried from end to end on any machine. It knows nothing of the server but
its public API, as any volunteer's worker does.
"""

import base64
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from horde.client import ApiClient, ApiError
from horde.sample_picture import MAX_SIDE, draw

logger = logging.getLogger(__name__)

BRIDGE_AGENT = "AI Horde Sample Worker:1:https://example.org/sample-worker"
DEFAULT_MODELS = ("stable_diffusion", "Deliberate", "Dreamshaper", "SDXL 1.0", "Juggernaut XL")

BATCH = 4
WAIT_SECONDS = 5
"""How long a pop may wait for a job, on a horde that knows such a thing; others answer at once. It is also
how long a worker that is told to stop may take to notice."""
TRIES = 10
FINISH_SECONDS = 5.0
"""How long a worker that is told to stop goes on with the job in hand; a longer one it reports as faulted."""

_DOUBLE_STEP_SAMPLERS = frozenset({"k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde"})


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What one sample worker announces, and how fast it goes."""

    name: str
    models: tuple[str, ...] = DEFAULT_MODELS
    max_pixels: int = MAX_SIDE * MAX_SIDE
    threads: int = 1
    poll_seconds: float = 1.0
    error_seconds: float = 5.0
    megapixelsteps_per_second: float = 18.0
    """Drawing is faster than any real model. A horde suspects workers above 20 of cheating, so results are
    held back to stay below that."""


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to deliver; `upload_url` is None where the server wants it inside the submit."""

    id: str
    index: int
    upload_url: str | None


class SampleWorker:
    """Pops, draws, uploads and submits in one thread, until `stop` is set."""

    def __init__(self, client: ApiClient, options: WorkerOptions, stop: threading.Event) -> None:
        self._client = client
        self._options = options
        self._stop = stop
        self._complaint = ""

    def run(self, once: bool = False) -> None:
        """Work until `stop` is set; with `once`, set it after the first jobs were served."""
        while not self._stop.is_set():
            try:
                served = self._turn()
            except ApiError as error:
                self._complain(error)
                self._stop.wait(self._options.error_seconds)
            except Exception:
                logger.exception("Unexpected failure; the worker goes on")
                self._stop.wait(self._options.error_seconds)
            else:
                if served and once:
                    self._stop.set()
                elif not served:
                    self._stop.wait(self._options.poll_seconds)

    def _turn(self) -> bool:
        """Pop once and serve what came; whether anything did."""
        answer = self._client.post("/generate/pop", self._offer())
        popped_at = time.monotonic()
        if self._complaint:
            self._complaint = ""
            logger.info("The horde accepts this worker again")
        jobs = read_jobs(answer)
        if jobs:
            self._serve(jobs, answer, popped_at)
        return bool(jobs)

    def _offer(self) -> dict[str, Any]:
        return {
            "name": self._options.name,
            "models": list(self._options.models),
            "bridge_agent": BRIDGE_AGENT,
            "nsfw": True,
            "max_pixels": self._options.max_pixels,
            "threads": self._options.threads,
            "amount": BATCH,
            "wait": WAIT_SECONDS,
            "allow_img2img": False,
            "allow_painting": False,
            "allow_post_processing": False,
            "allow_controlnet": False,
            "allow_sdxl_controlnet": False,
            "allow_lora": False,
        }

    def _complain(self, error: ApiError) -> None:
        """Log a refused pop once, not at every poll."""
        if str(error) == self._complaint:
            return
        self._complaint = str(error)
        if error.rc == "WorkerMaintenance" or "maintenance mode" in error.message.lower():
            logger.info("In maintenance, waiting: %s", error.message)
        else:
            logger.warning("Pop refused, trying again: %s", error)

    def _serve(self, jobs: list[Job], answer: dict[str, Any], popped_at: float) -> None:
        """Draw every job of a pop, then deliver each, or report it as faulted."""
        try:
            payload = answer["payload"]
            seed = int(payload["seed"])
            seeds = [(seed + job.index) % 2**32 for job in jobs]
            pictures = [draw(payload["prompt"], s, payload["width"], payload["height"]) for s in seeds]
            work = len(jobs) * megapixelsteps(payload)
        except Exception:
            logger.exception("Cannot draw this job")
            self._fault(jobs)
            return
        if not self._pace(popped_at, work):
            logger.info("Told to stop in the middle of a long job")
            self._fault(jobs)
            return
        for job, used_seed, picture in zip(jobs, seeds, pictures, strict=True):
            self._deliver(job, used_seed, picture, batch=len(jobs) > 1)

    def _pace(self, popped_at: float, work: float) -> bool:
        """Hold the results back until `work` megapixelsteps are plausible; False when told to stop first."""
        due = popped_at + work / self._options.megapixelsteps_per_second
        left = due - time.monotonic()
        if left > FINISH_SECONDS and self._stop.wait(left - FINISH_SECONDS):
            return False
        time.sleep(max(0.0, due - time.monotonic()))
        return True

    def _deliver(self, job: Job, seed: int, picture: bytes, batch: bool) -> None:
        generation = "R2"
        if job.upload_url is None:
            generation = base64.b64encode(picture).decode()
        elif not self._upload(job.upload_url, picture):
            self._fault([job])
            return
        metadata = [{"type": "batch_index", "value": "see_ref", "ref": str(job.index)}] if batch else []
        self._submit(
            {
                "id": job.id,
                "generation": generation,
                "seed": seed,
                "state": "ok",
                "gen_metadata": metadata,
            }
        )

    def _upload(self, url: str, picture: bytes) -> bool:
        return self._insist(
            "Upload", lambda: self._client.upload(url, picture), lambda error: not error.passing
        )

    def _fault(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._submit({"id": job.id, "generation": "faulted", "seed": 0, "state": "faulted"})

    def _submit(self, body: dict[str, Any]) -> None:
        def send() -> None:
            reward = self._client.post("/generate/submit", body).get("reward")
            logger.info("Job %s: %s, reward %s", body["id"], body["state"], reward)

        # The horde answers 400 and 404 to jobs that are no longer ours: delivered before, aborted, deleted.
        self._insist(f"Submit of job {body['id']}", send, lambda error: error.status in (400, 404))

    def _insist(self, what: str, call: Callable[[], None], final: Callable[[ApiError], bool]) -> bool:
        """Try a call up to `TRIES` times with pauses, fewer when told to stop; whether it worked."""
        for attempt in range(1, TRIES + 1):
            stopping = self._stop.is_set()
            try:
                call()
                return True
            except ApiError as error:
                logger.warning("%s failed (try %d): %s", what, attempt, error)
                if final(error) or stopping:
                    return False
            if attempt < TRIES:
                self._stop.wait(self._options.error_seconds)
        return False


def read_jobs(answer: dict[str, Any]) -> list[Job]:
    """The jobs of a pop answer, none for an empty one."""
    ids = answer.get("ids") or []
    uploads = answer.get("r2_uploads") or [answer.get("r2_upload")]
    urls = [*uploads, *[None] * len(ids)]
    return [Job(str(job_id), index, urls[index]) for index, job_id in enumerate(ids)]


def megapixelsteps(payload: dict[str, Any]) -> float:
    """The work in one picture, counted as the horde counts it: some samplers take each step twice."""
    sampler = payload.get("sampler_name")
    steps = payload.get("ddim_steps", 30)
    if sampler == "k_dpm_adaptive":
        steps = 40
    elif sampler in _DOUBLE_STEP_SAMPLERS:
        steps *= 2
    return float(payload["width"] * payload["height"] * steps) / 1e6


def run_threads(
    connect: Callable[[], ApiClient], options: WorkerOptions, stop: threading.Event, once: bool = False
) -> None:
    """Run as many sample workers side by side as the options say, until `stop` is set and all are done."""
    threads = [
        threading.Thread(target=SampleWorker(connect(), options, stop).run, args=(once,))
        for _ in range(options.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
