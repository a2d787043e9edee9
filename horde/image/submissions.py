"""Taking image results in from workers. A submit is one transaction."""

from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from horde.generation import calls, queue, settlement, webhooks
from horde.generation.rules import DELIVERED, too_fast
from horde.image import asked, prices, statistics
from horde.image.plans import KIND
from horde.image.results import describe_result, image_key
from horde.image.schemas import SubmitInputStable
from horde.kudos.rules import kudos
from horde.model_reference.service import image_models
from horde.moderation import problems
from horde.platform.errors import BadRequest, Forbidden, NotFound
from horde.platform.ids import parse_id
from horde.platform.images import as_webp, decode_base64_image
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Reason, UserFacts
from horde.workers import conduct
from horde.workers import service as workers

MOST_METADATA = 50
MOST_RESULT_PIXELS = (4 * 3072) ** 2
"""Results may be larger than what was asked for: upscalers enlarge them."""
UPLOADED = "R2"
"""What a worker submits instead of a picture that it has uploaded."""


def submit(platform: Platform, api_key: str, result: SubmitInputStable) -> float:
    """Take a worker's result in and settle it; returns the kudos credited for it.

    Raises 404 `InvalidJobID`, 401 `InvalidAPIKey`, 403 `WrongCredentials` when another account's worker
    has the job, 400 `DuplicateGen` for a job delivered before, `AbortedGen` for one that was lost, and
    `ImageValidationFailed` for a result that is no picture. However often and by however many hands a
    result is submitted, it is paid once.
    """
    if len(result.gen_metadata) > MOST_METADATA:
        raise BadRequest(f"At most {MOST_METADATA} entries of gen_metadata are possible.")
    job_id = parse_id(result.id)
    with platform.read() as db:
        job = settlement.find_job(db, job_id, KIND) if job_id else None
    if job is None:
        raise _no_job(result.id)
    caller = users.authenticate(platform, api_key)
    if caller.id != job.owner_id:
        raise Forbidden(
            "Wrong credentials: this job was given to another account's worker.", "WrongCredentials"
        )
    state = _end_state(result)
    _check_open(job.state, result.id, state)
    if job.decoy:
        return _take_decoy(platform, job, result, state)
    if state == "faulted":
        return _fault(platform, job)
    if result.generation != UPLOADED:
        platform.store.put(image_key(job.id), _picture(result.generation))
    reward = _deliver(platform, job, caller, result, state)
    _judge_speed(platform, job)
    return reward


def _end_state(result: SubmitInputStable) -> str:
    """What the worker says became of the job; censorship may be said in the state or in the metadata."""
    if result.state == "faulted":
        return "faulted"
    said = {entry.value for entry in result.gen_metadata if entry.type == "censorship"} | {result.state}
    if "csam" in said:
        return "csam"
    if said & {"nsfw", "censored"} or any(entry.type == "censorship" for entry in result.gen_metadata):
        return "censored"
    return "ok"


def _no_job(job_id: str) -> NotFound:
    return NotFound(
        f"Processing Job with ID {job_id[:60]} does not exist. It may have expired; drop it and go on.",
        "InvalidJobID",
    )


def _check_open(state: str, job_id: str, wanted: str) -> None:
    if state in DELIVERED:
        raise BadRequest(
            f"The result of job {job_id} was already submitted. Drop it and go on.", "DuplicateGen"
        )
    if state != "processing" and wanted != "faulted":
        raise BadRequest(
            f"Job {job_id} took too long or was given back, and another worker has it now. "
            "Please check your worker speed.",
            "AbortedGen",
        )


def _fault(platform: Platform, job: Row[Any]) -> float:
    with platform.engine.begin() as db:
        lost = settlement.lose(db, job, statistics.details(job, image_models(platform).models))
    if lost:
        calls.announce_again(platform, [job.request_id])
    else:
        _refuse_ended(platform, job.id, "faulted")
    return 0.0


def _take_decoy(platform: Platform, job: Row[Any], result: SubmitInputStable, state: str) -> float:
    """Answer as for any job, and do nothing with what was handed in."""
    if state != "faulted" and result.generation != UPLOADED:
        _picture(result.generation)
    with platform.read() as db:
        ended = queue.end(db, job.id, state)
    if not ended:
        _refuse_ended(platform, job.id, state)
    return 0.0 if state == "faulted" else float(_reward(platform, job))


def _picture(generation: str | None) -> bytes:
    return as_webp(decode_base64_image(generation or ""), max_pixels=MOST_RESULT_PIXELS)


def _reward(platform: Platform, job: Row[Any]) -> Decimal:
    software = workers.software_table(platform).capabilities(job.bridge_agent)
    return kudos(job.value * software.reward_factor)


def _deliver(
    platform: Platform, job: Row[Any], owner: UserFacts, result: SubmitInputStable, state: str
) -> float:
    reward = _reward(platform, job)
    payee = settlement.Payee(owner.balance_account, owner.escrow_account, owner.trusted)
    metadata = [entry.model_dump(exclude_none=True) for entry in result.gen_metadata]
    settle = partial(
        settlement.deliver,
        job=job,
        payee=payee,
        state=state,
        seed=result.seed,
        metadata=metadata,
        charge=prices.charge(job.value, asked.terms_of(job.payload, job.options), censored=state != "ok"),
        reward=reward,
        details=statistics.details(job, image_models(platform).models),
    )
    webhook = job.options.get("webhook")
    if webhook is None and state != "csam":
        with platform.read() as db:
            paid = settle(db)
    else:
        message = None if webhook is None else _message(platform, job, result.seed, metadata, state)
        with platform.engine.begin() as db:
            paid = settle(db)
            if paid and message is not None:
                webhooks.enqueue(db, webhook, message)
            if paid and state == "csam":
                problems.note(platform, db, _problem(job))
    if not paid:
        _refuse_ended(platform, job.id, state)
    if job.options["reserved"]:
        with platform.read() as db:
            settlement.release_if_complete(db, job.request_id)
    return float(reward)


def _message(
    platform: Platform, job: Row[Any], seed: int, metadata: list[dict[str, Any]], state: str
) -> dict[str, Any]:
    """What the requester's own server is told of a result."""
    ended = SimpleNamespace(**{**job._mapping, "state": state, "seed": seed, "metadata": metadata})
    told = describe_result(platform, ended, r2=job.r2)
    del told["state"]
    return told | {"seed": seed, "request": job.request_id, "kudos": job.value}


def _problem(job: Row[Any]) -> problems.Problem:
    return problems.Problem(
        job_id=job.id,
        user_id=job.user_id,
        address=job.ipaddr,
        proxied_account=job.proxied_account,
        worker_id=job.worker_id,
        worker_name=job.worker_name,
        prompt=job.payload["prompt"],
        loras=tuple(lora["name"] for lora in job.payload.get("loras", ())),
    )


def _refuse_ended(platform: Platform, job_id: UUID, state: str) -> None:
    """Raise what is to be told of a job that has just been ended otherwise.

    Nothing is raised when it is given back (`state`) and was lost before: giving it back again is harmless.
    """
    with platform.read() as db:
        now = settlement.find_job(db, job_id, KIND)
    if now is None:
        raise _no_job(str(job_id))
    _check_open(now.state, str(job_id), state)


def _judge_speed(platform: Platform, job: Row[Any]) -> None:
    """Suspect the worker if nobody could have made what has come of the batch until now."""
    if not too_fast(job.kind, job.things, job.batch, job.seconds):
        return
    delivered = 1
    if job.batch > 1:
        with platform.read() as db:
            delivered = settlement.delivered_together(db, job)
    if too_fast(job.kind, job.things, delivered, job.seconds):
        conduct.suspect(
            platform,
            Reason.UNREASONABLY_FAST,
            owner_id=job.owner_id,
            worker_id=job.worker_id,
            kind=job.kind,
            name=job.worker_name,
        )
