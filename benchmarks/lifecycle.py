"""One request from the first call to the last: what each side sends, and what it must get back."""

import base64
import io
import os
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from PIL import Image

MODELS = ["stable_diffusion", "Deliberate", "Dreamshaper", "SDXL 1.0", "Juggernaut XL"]
BRIDGE_AGENT = "AI Horde Worker reGen:13:https://example.org/benchmark"
SIDE = 64
ENDPOINTS = ("async", "check", "pop", "submit", "status")


class WrongAnswer(RuntimeError):
    """The server did not answer what it should have."""


class Call(NamedTuple):
    """One HTTP call; `worker` says which side of the client makes it."""

    endpoint: str
    worker: bool
    path: str
    api_key: str
    address: str
    body: bytes | None = None


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Requester:
    """An account that asks for pictures."""

    api_key: str


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker with an owner of its own, always at the same address."""

    api_key: str
    name: str
    address: str

    def offer(self) -> bytes:
        """The body of its pops."""
        return orjson.dumps(
            {
                "name": self.name,
                "models": MODELS,
                "bridge_agent": BRIDGE_AGENT,
                "max_pixels": 1024 * 1024,
                "nsfw": True,
                "allow_lora": True,
                "threads": 1,
            }
        )


@dataclass(slots=True)
class Board:
    """What all clients share: which of the requests have been delivered, by whomever."""

    delivered: set[int] = field(default_factory=set)


Script = Generator[Call | int, Answer, None]
"""Calls to make, each resumed with its answer; a number: wait until that request was delivered."""


def picture() -> str:
    """A picture of the requested size as WebP, in base64."""
    target = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), os.urandom(SIDE * SIDE * 3)).resize((8, 8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    ).save(target, "WEBP")
    return base64.b64encode(target.getvalue()).decode()


PICTURE = picture()
RESULT = orjson.dumps({"generation": PICTURE, "state": "ok"})[1:]
REQUEST = (
    b'{"prompt":"a lighthouse at dawn, oil painting, number %d","params":{"width":%d,"height":%d,"steps":30},'
    b'"models":["stable_diffusion"],"r2":false}'
)


def lifecycle(number: int, requester: Requester, address: str, worker: Worker, board: Board) -> Script:
    """Ask for a picture, serve whichever request the queue gives, and fetch the picture that was asked for.

    Seven calls: async, a check, pop (repeated while it gives nothing), submit; once the own request was
    delivered two more checks, and status.
    """
    key = requester.api_key
    created = yield Call("async", False, "async", key, address, REQUEST % (number, SIDE, SIDE))
    request_id = _expect(created, "async", 202, lambda data: data["kudos"] > 0)["id"]
    check = Call("check", False, f"check/{request_id}", key, address)
    _expect((yield check), "check", 200, lambda data: not data["faulted"] and data["is_possible"] is not None)
    board.delivered.add((yield from _serve(worker)))
    if number not in board.delivered:
        yield number
    for _ in range(2):
        _expect((yield check), "check", 200, lambda data: data["done"] and data["finished"] == 1)
    status = yield Call("status", False, f"status/{request_id}", key, address)
    _expect(status, "status", 200, _has_the_picture)


def _serve(worker: Worker) -> Generator[Call, Answer, int]:
    """Take a job and deliver it; returns the number of the request that it belonged to."""
    pop = Call("pop", True, "pop", worker.api_key, worker.address, worker.offer())
    job: dict[str, Any] = {"id": None}
    while job["id"] is None:
        job = _expect((yield pop), "pop", 200, lambda data: data["id"] is None or len(data["ids"]) == 1)
    payload = job["payload"]
    body = b'{"id":"%s","seed":%s,' % (job["id"].encode(), payload["seed"].encode()) + RESULT
    paid = yield Call("submit", True, "submit", worker.api_key, worker.address, body)
    _expect(paid, "submit", 200, lambda data: isinstance(data["reward"], int | float) and data["reward"] > 0)
    return int(payload["prompt"].rpartition(" ")[2])


def _has_the_picture(data: dict[str, Any]) -> bool:
    (generation,) = data["generations"]
    return bool(data["done"] and generation["img"] == PICTURE and generation["state"] == "ok")


def _expect(answer: Answer, endpoint: str, status: int, right: Any) -> dict[str, Any]:
    """The object in `answer`. Raises `WrongAnswer`, which shows it, when it is not as it should be."""
    try:
        data: dict[str, Any] = orjson.loads(answer.body)
        if answer.status == status and right(data):
            return data
    except (ValueError, KeyError, TypeError):
        pass
    text = answer.body[:2000].decode(errors="replace")
    raise WrongAnswer(f"Wrong answer to {endpoint}: status {answer.status}, {text}")
