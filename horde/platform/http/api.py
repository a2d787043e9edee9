"""The API's frame on flask-restx: areas of routes, the Swagger document and its page."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from http import HTTPStatus
from typing import Any, Literal, TypeVar

import orjson
from flask import Blueprint, Flask, Response
from flask_restx import Api, Namespace
from flask_restx import Resource as RestxResource
from flask_restx.model import SchemaModel
from flask_restx.swagger import Swagger
from pydantic import BaseModel

from horde.platform.http.fields import Input
from horde.platform.http.requests import ANONYMOUS_KEY, DEFAULT_AGENT
from horde.platform.http.responses import JSON
from horde.platform.http.return_codes import RETURN_CODES
from horde.platform.http.swagger import definitions, query_parameters

API_VERSION = "2.5"

F = TypeVar("F", bound=Callable[..., Any])

Answer = type[BaseModel] | list[type[BaseModel]] | None
"""What an operation answers: one object, a list (`[Schema]`), or something without a schema."""

STATUS_TEXTS = {
    400: "The request does not fit its schema or breaks a rule",
    401: "No valid API key",
    403: "Not allowed",
    404: "No such thing",
    429: "Too many requests",
    503: "The horde is in maintenance",
}

ERROR_PROPERTIES = {
    "message": {"type": "string", "description": "What happened and what to do next."},
    "rc": {
        "type": "string",
        "description": "The return code, for programs.",
        "enum": list(RETURN_CODES),
        "example": RETURN_CODES[0],
    },
}

ERROR_DEFINITIONS: dict[str, dict[str, Any]] = {
    "RequestError": {"type": "object", "properties": ERROR_PROPERTIES, "required": ["message", "rc"]},
    "RequestValidationError": {
        "type": "object",
        "properties": {
            **ERROR_PROPERTIES,
            "errors": {
                "type": "object",
                "description": "Path of each field that does not fit -> what is wrong.",
                "additionalProperties": {"type": "string"},
            },
        },
        "required": ["message", "rc"],
    },
}


class Resource(RestxResource):  # type: ignore[misc]
    """One route; its methods `get`, `post`, `put`, `patch` and `delete` take the parts of its path."""


class Area(Namespace):  # type: ignore[misc]
    """The routes of one feature, all below `/api/v2`; `area.route(path)` decorates a Resource."""

    def __init__(self) -> None:
        super().__init__("v2", path="/v2")
        self.bodies: list[type[BaseModel]] = []
        self.answers: list[type[BaseModel]] = []

    def operation(
        self,
        *,
        answers: Mapping[int, Answer],
        body: type[Input] | None = None,
        query: type[Input] | None = None,
        errors: Iterable[int] = (),
        key: Literal["required", "optional"] | None = None,
        agent: bool = True,
        masked: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Callable[[F], F]:
        """Declare in the Swagger document what a resource's method takes and answers; it enforces nothing.

        `answers` maps the status of each success to its schema and `errors` lists the other statuses. `key`,
        `agent` and `masked` stand for the headers `apikey`, `Client-Agent` and `X-Fields`; further `headers`
        are given with their description. Summary and description come from the method's docstring.
        """
        parameters: dict[str, dict[str, Any]] = query_parameters(query) if query else {}
        if key:
            parameters["apikey"] = _header(
                f"The API key; where people without an account are served, they send {ANONYMOUS_KEY}."
            )
            if key == "required":
                parameters["apikey"]["required"] = True
        if agent:
            parameters["Client-Agent"] = _header("The program: name:version:contact.", default=DEFAULT_AGENT)
        if masked:
            parameters["X-Fields"] = _header("Which fields to answer, such as id,kudos.", format="mask")
        for name, text in (headers or {}).items():
            parameters[name] = _header(text)
        if body:
            self.bodies.append(body)
            reference = {"$ref": f"#/definitions/{body.__name__}"}
            parameters["payload"] = {"in": "body", "required": True, "schema": reference}
        responses: dict[str, Any] = {}
        for status, answer in answers.items():
            schema = answer[0] if isinstance(answer, list) else answer
            if schema:
                self.answers.append(schema)
            model = schema.__name__ if schema else None
            responses[str(status)] = ("Success", [model] if isinstance(answer, list) else model)
        for status in errors:
            model = "RequestValidationError" if status == 400 else "RequestError"
            responses[str(status)] = (STATUS_TEXTS.get(status, HTTPStatus(status).phrase), model)
        decorate: Callable[[F], F] = self.doc(params=parameters, responses=responses)
        return decorate


class HordeApi(Api):  # type: ignore[misc]
    """flask-restx without its error handling, and with a Swagger document that is built once."""

    base_path = "/api"

    def error_router(self, original_handler: Callable[[Exception], Any], error: Exception) -> Any:
        """Leave errors to the application's handlers."""
        return original_handler(error)

    def _register_specs(self, target: Any) -> None:
        target.add_url_rule(f"/{self.default_swagger_filename}", "specs", self._answer_document)

    def _answer_document(self) -> Response:
        return Response(self.document, content_type=JSON)

    @cached_property
    def document(self) -> bytes:
        """The Swagger 2.0 document."""
        return orjson.dumps(Swagger(self).as_dict(), option=orjson.OPT_APPEND_NEWLINE)


def _header(description: str, **more: Any) -> dict[str, Any]:
    return {"in": "header", "type": "string", "description": description, **more}


def mount_api(app: Flask, areas: Iterable[Area], title: str) -> HordeApi:
    """Serve `areas` below `/api/v2`, the Swagger document at `/api/swagger.json` and its page at `/api/`."""
    areas = list(areas)
    app.config["RESTX_INCLUDE_ALL_MODELS"] = True
    blueprint = Blueprint("api", __name__, url_prefix="/api")
    api = HordeApi(title=title, version=API_VERSION)
    made = definitions(
        [schema for area in areas for schema in area.bodies],
        [schema for area in areas for schema in area.answers],
    )
    for name, definition in {**made, **ERROR_DEFINITIONS}.items():
        api.models[name] = SchemaModel(name, definition)
    for area in areas:
        api.add_namespace(area)
    api.init_app(blueprint)
    app.register_blueprint(blueprint)
    return api
