"""Pydantic schemas as Swagger 2.0 definitions."""

from collections.abc import Iterable
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

Definition = dict[str, Any]

KEPT = {
    "type",
    "format",
    "enum",
    "default",
    "description",
    "example",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "uniqueItems",
    "required",
    "readOnly",
}
"""The keys of a schema without parts that mean the same in Swagger 2.0 as in JSON Schema."""


class _Generator(GenerateJsonSchema):
    """Describes a field of several validation steps by its last one, which has the declared bounds."""

    def chain_schema(self, schema: core_schema.ChainSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["steps"][-1])


def definitions(
    bodies: Iterable[type[BaseModel]], answers: Iterable[type[BaseModel]]
) -> dict[str, Definition]:
    """The definitions of all given schemas and of those nested in them, under their class names.

    A schema that is sent both ways is described as it comes in. Raises ValueError when two schemas have the
    same name.
    """
    made = {**_generate(answers, "serialization"), **_generate(bodies, "validation")}
    for name in made:
        if "__" in name:
            raise ValueError(f"two schemas have the same class name: {name}")
    return {name: _translate(schema) for name, schema in made.items()}


def query_parameters(schema: type[BaseModel]) -> dict[str, Definition]:
    """The fields of `schema` as parameters of a query string."""
    described = schema.model_json_schema(schema_generator=_Generator)
    needed = described.get("required", ())
    return {
        name: {"in": "query", **({"required": True} if name in needed else {}), **_translate(field)}
        for name, field in described.get("properties", {}).items()
    }


def _generate(schemas: Iterable[type[BaseModel]], mode: JsonSchemaMode) -> dict[str, Definition]:
    wanted = [(schema, mode) for schema in dict.fromkeys(schemas)]
    _, made = models_json_schema(wanted, ref_template="#/definitions/{model}", schema_generator=_Generator)
    return cast(dict[str, Definition], made.get("$defs", {}))


def _translate(schema: Definition) -> Definition:
    """One JSON Schema in the words of Swagger 2.0, which knows no null, no unions and no constants."""
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if options:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return _translate({**options[0], **rest})
    if "$ref" in schema:
        reference = {"$ref": schema["$ref"]}
        extra = {key: schema[key] for key in ("description", "default") if schema.get(key) is not None}
        return {"allOf": [reference], **extra} if extra else reference
    made = {key: value for key, value in schema.items() if key in KEPT}
    if made.get("default", ...) is None:
        del made["default"]
    if "const" in schema:
        made["enum"] = [schema["const"]]
    if schema.get("examples"):
        made["example"] = schema["examples"][0]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in made:
            made[bound] = made[exclusive]
            made[exclusive] = True
    if "properties" in schema:
        made["properties"] = {name: _translate(field) for name, field in schema["properties"].items()}
    if made.get("type") == "array":
        made["items"] = _translate(schema.get("items", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _translate(schema["additionalProperties"])
    return made
