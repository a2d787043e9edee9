"""A model reference as a document: a JSON object of entries by model name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic

import orjson
from pydantic import ValidationError

from horde.model_reference.schemas import ImageModel, M, ModelReference, TextModel
from horde.settings import ROOT, Settings


class ModelReferenceError(ValueError):
    """A reference cannot be used at all; the message says which one and why."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[M]):
    """One of the references that a horde has."""

    name: str
    model: type[M]
    starter: Path
    """Comes with the program; used while there is nothing better."""
    source: Callable[[Settings], str]
    """The file name or https URL that the settings give."""


_STARTERS = ROOT / "config" / "models"
IMAGE = Kind("image", ImageModel, _STARTERS / "image.json", lambda settings: settings.model_reference_image)
TEXT = Kind("text", TextModel, _STARTERS / "text.json", lambda settings: settings.model_reference_text)
KINDS: Mapping[str, Kind[Any]] = MappingProxyType({kind.name: kind for kind in (IMAGE, TEXT)})


def entries_of(document: bytes, source: str) -> dict[str, object]:
    """The entries of a document from `source`. Raises `ModelReferenceError` unless it is a JSON object."""
    try:
        entries = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise ModelReferenceError(f"The model reference {source} is not valid JSON: {error}.") from error
    if not isinstance(entries, dict):
        raise ModelReferenceError(f"The model reference {source} must be an object of entries by model name.")
    return entries


def kind_of(entries: Mapping[str, object]) -> Kind[Any]:
    """The kind that a document seems to be: only text models have a number of parameters."""
    has_parameters = any(isinstance(entry, dict) and "parameters" in entry for entry in entries.values())
    return TEXT if has_parameters else IMAGE


def validate(entries: Mapping[str, object], kind: Kind[M]) -> ModelReference[M]:
    """The models that `entries` describe; one that breaks the schema is listed under `refused` instead."""
    models: dict[str, M] = {}
    refused: dict[str, str] = {}
    for name, entry in entries.items():
        try:
            models[name] = _model(name, entry, kind.model)
        except ValidationError as error:
            refused[name] = _reason(error)
        except ValueError as error:
            refused[name] = str(error)
    return ModelReference(models, refused)


def parse(document: bytes, source: str, kind: Kind[M]) -> ModelReference[M]:
    """The models of a document from `source`. Raises `ModelReferenceError` when none can be used."""
    reference = validate(entries_of(document, source), kind)
    if not reference.models:
        example = next((f": {name}: {reason}" for name, reason in reference.refused.items()), "")
        raise ModelReferenceError(f"The model reference {source} has no entry that can be used{example}.")
    return reference


def _model(name: str, entry: object, model: type[M]) -> M:
    if not isinstance(entry, dict):
        raise ValueError("the entry is not an object")
    if entry.get("name", name) != name:
        raise ValueError(f"the entry calls itself {entry['name']!r}")
    return model.model_validate({**entry, "name": name})


def _reason(error: ValidationError) -> str:
    """What is wrong with an entry, as `field: text; field: text`."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        ": ".join(filter(None, [".".join(map(str, problem["loc"])), problem["msg"]])) for problem in problems
    )
