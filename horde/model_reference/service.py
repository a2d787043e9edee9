"""Reading the model reference."""

from pathlib import Path

import orjson
import structlog
from pydantic import ValidationError

from horde.model_reference.schemas import ImageModel, ImageModels
from horde.platform.runtime import Platform

CACHE_SECONDS = 3600

log = structlog.get_logger(__name__)


class ModelReferenceError(ValueError):
    """The reference cannot be read at all; the message says which file and why."""


def image_models(platform: Platform) -> ImageModels:
    """The image models that this horde knows; at most an hour old. Raises `ModelReferenceError`."""
    settings = platform.settings
    path = settings.config_path(settings.model_reference_image)
    return platform.local.get("image_models", CACHE_SECONDS, lambda: load_image_models(path))


def load_image_models(path: Path) -> ImageModels:
    """Read a JSON object of entries by model name.

    An entry that breaks the schema is left out and listed under `refused`. Raises `ModelReferenceError`
    when the file is missing or is not such an object.
    """
    try:
        entries = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ModelReferenceError(f"The model reference {path} cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise ModelReferenceError(f"The model reference {path} must be an object of entries by model name.")
    models: dict[str, ImageModel] = {}
    refused: dict[str, str] = {}
    for name, entry in entries.items():
        try:
            models[name] = _image_model(name, entry)
        except ValidationError as error:
            refused[name] = _reason(error)
        except ValueError as error:
            refused[name] = str(error)
    for name, reason in refused.items():
        log.warning("image model refused", file=str(path), model=name, reason=reason)
    return ImageModels(models, refused)


def _image_model(name: str, entry: object) -> ImageModel:
    if not isinstance(entry, dict):
        raise ValueError("the entry is not an object")
    if entry.get("name", name) != name:
        raise ValueError(f"the entry calls itself {entry['name']!r}")
    return ImageModel.model_validate({**entry, "name": name})


def _reason(error: ValidationError) -> str:
    """What is wrong with an entry, as `field: text; field: text`."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        ": ".join(filter(None, [".".join(map(str, problem["loc"])), problem["msg"]])) for problem in problems
    )
