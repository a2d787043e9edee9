"""The Swagger document."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from horde.platform.http import Area, Output, Resource
from horde.platform.http.api import mount_api
from horde.platform.http.return_codes import RETURN_CODES
from tests.platform.http.conftest import make_area


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    return dict(client.get("/api/swagger.json").json)


def parameters(document: dict[str, Any], path: str, method: str) -> dict[str, dict[str, Any]]:
    item = document["paths"][path]
    declared = item.get("parameters", []) + item[method].get("parameters", [])
    return {parameter["name"]: parameter for parameter in declared}


def test_frame(document: dict[str, Any]) -> None:
    assert document["swagger"] == "2.0"
    assert document["basePath"] == "/api"
    assert (document["info"]["title"], document["info"]["version"]) == ("AI Horde", "2.5")
    assert document["produces"]
    assert document["consumes"]
    assert "/v2/deliveries/{delivery_id}" in document["paths"]


def test_headers_are_declared(document: dict[str, Any]) -> None:
    post = parameters(document, "/v2/deliveries", "post")
    assert post["apikey"]["required"] is True
    assert post["X-Fields"]["format"] == "mask"
    assert "Client-Agent" not in post
    one = parameters(document, "/v2/deliveries/{delivery_id}", "get")
    assert one["delivery_id"] == {"name": "delivery_id", "in": "path", "required": True, "type": "string"}
    assert "required" not in one["apikey"]
    assert one["Client-Agent"]["default"] == "unknown:0:unknown"
    assert "X-Fields" not in parameters(document, "/v2/whoami", "get")


def test_query_is_declared(document: dict[str, Any]) -> None:
    query = parameters(document, "/v2/deliveries", "get")
    assert query["page"] == {"name": "page", "in": "query", "type": "integer", "default": 1, "minimum": 1}
    assert query["online"] == {"name": "online", "in": "query", "type": "boolean"}
    assert query["order"]["enum"] == ["kudos", "age"]


def test_body_is_declared(document: dict[str, Any]) -> None:
    post = parameters(document, "/v2/deliveries", "post")
    assert post["payload"]["schema"] == {"$ref": "#/definitions/Delivery"}
    schema = document["definitions"]["Delivery"]
    assert schema["required"] == ["id", "seed"]
    assert schema["description"] == "A delivered image."
    fields = schema["properties"]
    assert fields["seed"] == {"type": "integer"}
    assert fields["steps"] == {"type": "integer", "minimum": 1, "maximum": 500}
    assert fields["width"] == {
        "type": "integer",
        "default": 512,
        "minimum": 64,
        "maximum": 3072,
        "multipleOf": 64,
    }
    assert fields["strength"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 1,
        "example": 0.5,
    }
    assert fields["state"] == {"type": "string", "enum": ["ok", "faulted"], "default": "ok"}
    assert fields["workflow"] == {"type": "string", "enum": ["qr_code"]}
    assert fields["metadata"] == {
        "type": "array",
        "items": {"$ref": "#/definitions/Metadata"},
        "description": "What was noticed.",
    }
    assert fields["main"]["allOf"] == [{"$ref": "#/definitions/Metadata"}]
    assert fields["tags"]["uniqueItems"] is True
    assert fields["special"] == {"type": "object"}
    assert document["definitions"]["Metadata"]["required"] == ["type", "value"]


def test_answers_are_declared(document: dict[str, Any]) -> None:
    responses = document["paths"]["/v2/deliveries"]["post"]["responses"]
    assert responses["200"]["schema"] == {"$ref": "#/definitions/Reward"}
    assert responses["400"]["schema"] == {"$ref": "#/definitions/RequestValidationError"}
    assert responses["404"]["schema"] == {"$ref": "#/definitions/RequestError"}
    listed = document["paths"]["/v2/deliveries"]["get"]["responses"]["200"]["schema"]
    assert listed == {"type": "array", "items": {"$ref": "#/definitions/Part"}}
    assert document["definitions"]["Reward"]["properties"]["message"] == {"type": "string"}
    assert document["definitions"]["Reward"]["properties"]["parts"]["items"] == {"$ref": "#/definitions/Part"}


def test_errors_are_declared(document: dict[str, Any]) -> None:
    error = document["definitions"]["RequestError"]
    assert error["required"] == ["message", "rc"]
    assert error["properties"]["rc"]["enum"] == list(RETURN_CODES)
    assert "errors" in document["definitions"]["RequestValidationError"]["properties"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(part) for part in node.values()))
        return set().union(*(references(part) for part in node)) if isinstance(node, list) else set()

    assert references(document) <= {f"#/definitions/{name}" for name in document["definitions"]}


def test_docstrings_become_summary_and_description(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v2/deliveries"]["post"]
    assert (operation["summary"], operation["description"]) == ("Deliver an image", "Pays for it.")


def test_page_works_without_other_sites(client: FlaskClient) -> None:
    page = client.get("/api/")
    assert page.status_code == 200
    assert "/api/swagger.json" in page.text
    assert 'src="http' not in page.text
    assert 'href="http' not in page.text
    assert client.get("/swaggerui/swagger-ui-bundle.js").status_code == 200
    assert client.get("/api").status_code == 308


def test_an_area_can_be_served_by_several_applications() -> None:
    area = make_area()
    documents = []
    for _ in range(2):
        app = Flask("toy")
        mount_api(app, [area], "x")
        documents.append(app.test_client().get("/api/swagger.json").json)
    assert documents[0] == documents[1]
    assert "/v2/deliveries" in documents[1]["paths"]


def test_two_schemas_of_one_name_are_refused() -> None:
    def schema(fields: dict[str, type]) -> type[Output]:
        return type("Same", (Output,), {"__annotations__": fields, "__module__": str(len(fields))})

    area = Area()

    @area.route("/x")
    class Route(Resource):
        @area.operation(answers={200: schema({"a": int}), 201: schema({"a": int, "b": int})})
        def get(self) -> None:
            """Never called."""

    with pytest.raises(ValueError, match="Same"):
        mount_api(Flask("x"), [area], "x")
