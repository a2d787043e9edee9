"""Base classes and field types of every schema that comes in or goes out."""

import json
import re
from typing import Annotated, Any, ClassVar, TypeVar, cast

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_INTEGER = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)

_NUMBER_TO_WHOLE = core_schema.union_schema(
    [
        core_schema.int_schema(strict=True, ge=INT64_MIN, le=INT64_MAX),
        core_schema.chain_schema(
            [
                core_schema.float_schema(strict=True, allow_inf_nan=False, ge=INT64_MIN, lt=INT64_MAX),
                core_schema.int_schema(strict=False),
            ]
        ),
    ],
    mode="left_to_right",
    custom_error_type="whole_number",
    custom_error_message="must be a whole number of at most 64 bits",
)


class Input(BaseModel):
    """What a client sends: a body, a part of one, or a query string.

    Fields are declared as plain Python types, and the rules of the wire contract hold for them: nothing is
    converted, except that a whole number may be written as a float (`512.0`); integers fit into 64 bits and
    floats are finite; unknown fields are ignored; a field with a default may be left out, but `null` is
    refused for it even when it is declared `T | None`. `model_fields_set` tells which fields were sent.
    """

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        model = cast(dict[str, Any], handler.resolve_ref_schema(schema))
        for field in model.get("schema", {}).get("fields", {}).values():
            inner = field["schema"]
            if inner["type"] == "default" and inner["schema"]["type"] == "nullable":
                inner["schema"] = inner["schema"]["schema"]
                inner["serialization"] = core_schema.simple_ser_schema("any")
            field["schema"] = _with_whole_numbers(inner)
        return schema


class Output(BaseModel):
    """What the server answers.

    With `skip_none` set on the class, fields that are None are left out of its answers, at every depth.
    """

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    skip_none: ClassVar[bool] = False


class SimpleResponse(Output):
    """It is done."""

    message: str = Field("OK", description="OK.")


def _with_whole_numbers(schema: Any) -> Any:
    """A copy of the core schema `schema` in which integers also accept floats without a fraction."""
    if isinstance(schema, list):
        return [_with_whole_numbers(part) for part in schema]
    if not isinstance(schema, dict) or schema.get("type") in ("chain", "model"):
        return schema
    if schema.get("type") == "int":
        return core_schema.chain_schema([_NUMBER_TO_WHOLE, cast(CoreSchema, schema)])
    return {key: _with_whole_numbers(part) for key, part in schema.items()}


class _Distinct:
    """Refuses a list that holds a value twice, and declares so in the Swagger document."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "uniqueItems": True}

    @staticmethod
    def _check(values: list[Any]) -> list[Any]:
        if len(set(values)) != len(values):
            raise ValueError("must not hold the same value twice")
        return values


def _finite(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
        orjson.dumps(value)
    except (ValueError, TypeError):
        raise ValueError("must hold finite numbers of at most 64 bits, not nested deeply") from None
    return value


def _from_text(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= 20 and _INTEGER.fullmatch(value):
        return int(value)
    return value


T = TypeVar("T")

DistinctList = Annotated[list[T], _Distinct()]
"""A list of hashable values without repetitions."""

JsonObject = Annotated[dict[str, Any], AfterValidator(_finite)]
"""An object whose content is free, fit to be stored as JSON."""

IntOrText = Annotated[int, BeforeValidator(_from_text)]
"""An integer that may also come as text (`"25"`), on the few routes where clients have always sent both."""
