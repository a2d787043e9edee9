"""A small application on the HTTP layer."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from flask import Flask, Response
from flask.testing import FlaskClient
from pydantic import Field
from sqlalchemy import text

from horde.platform.database import make_engine
from horde.platform.embedded import ServiceUrls
from horde.platform.errors import BadRequest, NotFound
from horde.platform.http import (
    Area,
    DistinctList,
    Input,
    JsonObject,
    Output,
    Resource,
    answer,
    api_key,
    body,
    client_agent,
    direct_address,
    init_http,
    limited,
    query,
    unlimited,
)
from horde.platform.local_cache import LocalCache
from horde.platform.objectstore import make_store
from horde.platform.runtime import Platform, current_platform
from tests.support import make_settings

PROXY = "10.0.0.1"
SERVICE = "192.0.2.99"


class Metadata(Input):
    type: Literal["lora", "censorship"]
    value: Literal["nsfw", "csam"]
    ref: str | None = Field(None, max_length=255)


class Delivery(Input):
    """A delivered image."""

    id: str
    seed: int
    steps: int | None = Field(None, ge=1, le=500)
    width: int = Field(512, ge=64, le=3072, multiple_of=64)
    strength: float | None = Field(None, gt=0, le=1, examples=[0.5])
    censored: bool = False
    state: Literal["ok", "faulted"] = "ok"
    workflow: Literal["qr_code"] | None = None
    metadata: list[Metadata] = Field(default_factory=list, description="What was noticed.")
    tags: DistinctList[Literal["a", "b"]] = Field(default_factory=list)
    special: JsonObject | None = None
    main: Metadata | None = Field(None, description="The most important one.")


class Reward(Output):
    reward: float
    message: str | None = None
    parts: list["Part"] = Field(default_factory=list)


class Part(Output):
    skip_none = True

    name: str
    amount: float | None = None


class Page(Input):
    page: int = Field(1, ge=1)
    name: str | None = None
    online: bool | None = None
    order: Literal["kudos", "age"] = "kudos"


def make_area() -> Area:
    area = Area()

    @area.route("/deliveries")
    class Deliveries(Resource):
        @area.operation(
            body=Delivery, answers={200: Reward}, errors=(400, 401, 404), key="required", agent=False
        )
        def post(self) -> Response:
            """Deliver an image. Pays for it."""
            api_key()
            return answer(body(Delivery).model_dump(mode="json"))

        @area.operation(query=Page, answers={200: [Part]}, errors=(400,))
        def get(self) -> Response:
            """List deliveries."""
            return answer([Part(name=query(Page).model_dump_json())])

    @area.route("/deliveries/<string:delivery_id>")
    class OneDelivery(Resource):
        @area.operation(answers={200: Reward}, errors=(404,), key="optional")
        def get(self, delivery_id: str) -> Response:
            """Look one up."""
            if delivery_id == "none":
                raise NotFound("No such delivery.", "InvalidJobID")
            if delivery_id == "maintenance":
                raise BadRequest("Come back later.", "MaintenanceMode", headers={"Retry-After": "60"})
            if delivery_id == "broken":
                raise RuntimeError("apikey=verysecret")
            with current_platform().read() as connection:
                connection.execute(text("SELECT :id"), {"id": delivery_id})
            return answer(Reward(reward=2, parts=[Part(name="x"), Part(name="y", amount=1)]))

    @area.route("/whoami")
    class WhoAmI(Resource):
        @unlimited
        @area.operation(answers={200: None}, masked=False)
        def get(self) -> Response:
            """Say what the server sees of the caller."""
            return answer(
                {"agent": client_agent(), "key": api_key(required=False), "address": direct_address()}
            )

    add_limited_routes(area)
    return area


def add_limited_routes(area: Area) -> None:
    def add(path: str, *decorators: Callable[[Any], Any]) -> None:
        def view(self: Resource, **_parts: str) -> Response:
            return answer({})

        for decorate in decorators:
            view = decorate(view)
        name = path.split("/")[1].title()
        resource = type(name, (Resource,), {"get": view, "post": view})
        area.route(path)(resource)

    add("/limit_address/<id>", limited("2/hour"))
    add("/limit_path/<id>", limited("2/hour", relaxed="4/hour", key="path"))
    add("/limit_key/<id>", limited("2/hour", relaxed="3/hour", key="key"))
    add("/limit_worker", limited("1/hour", key="worker"))
    add_by_method(area)
    add("/limit_both", limited("5/hour;3/day"), limited("2/minute", key="key"))


def add_by_method(area: Area) -> None:
    @area.route("/limit_writes")
    class LimitWrites(Resource):
        def get(self) -> Response:
            return answer({})

        @limited("2/minute")
        def post(self) -> Response:
            return answer({})


@pytest.fixture
def platform(services: ServiceUrls, redis_url: str, tmp_path: Path) -> Iterator[Platform]:
    settings = make_settings(
        tmp_path, trusted_proxies=frozenset({PROXY}), service_addresses=frozenset({SERVICE}), max_body_mib=1
    )
    cache = redis.Redis.from_url(redis_url)
    secret = b"a secret for tests"
    engine = make_engine(services.database_url, pool_size=1)
    yield Platform(
        settings=settings,
        engine=engine,
        reader=engine,
        cache=cache,
        local=LocalCache(cache),
        store=make_store(settings, secret),
        secret=secret,
    )
    engine.dispose()
    cache.close()


def make_app(platform: Platform) -> Flask:
    app = Flask("toy")
    init_http(app, platform, [make_area()])

    @app.get("/page")
    def page() -> str:
        return "<p>hello</p>"

    return app


@pytest.fixture
def app(platform: Platform) -> Flask:
    return make_app(platform)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
