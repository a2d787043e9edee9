"""`horde models`: the model references."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from horde.cli.services import command_platform
from horde.model_reference.documents import (
    IMAGE,
    KINDS,
    Kind,
    ModelReferenceError,
    entries_of,
    kind_of,
    validate,
)
from horde.model_reference.rules import KNOWN_BASELINES
from horde.model_reference.schemas import ImageModel, Requirements, TextModel
from horde.model_reference.service import Copy, file_copy, stored_copy
from horde.model_reference.sources import is_url, read_file
from horde.settings import load_settings

KIND = click.Choice(list(KINDS))


@click.group()
def models() -> None:
    """Look at the models that this horde knows."""


@models.command()
@click.option("--kind", "name", type=KIND, default=IMAGE.name, show_default=True, help="Which reference.")
def show(name: str) -> None:
    """List the models of the reference, and the entries that were refused with the reason.

    The setting MODEL_REFERENCE_IMAGE or MODEL_REFERENCE_TEXT names the reference. A file is shown as it
    is now; of a URL the copy that the horde fetched last and uses.
    """
    kind = KINDS[name]
    try:
        copy = _copy(kind)
    except ModelReferenceError as error:
        raise click.ClickException(str(error)) from error
    listed = copy.reference.models
    width = max(map(len, listed), default=0)
    for model_name, model in sorted(listed.items()):
        click.echo(f"{model_name:{width}}  {'; '.join(_facts(model))}")
    done = "fetched" if is_url(copy.source) else "changed"
    click.echo(f"{len(listed)} {name} models in {copy.source}, {done} {_ago(copy.age)}")
    if copy.failure:
        click.echo(f"The newest refresh failed, this copy stays in use: {copy.failure}", err=True)
    _show_refused(copy.reference.refused)


@models.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kind", "name", type=KIND, help="What FILE lists; without it, as its entries look.")
def check(file: Path, name: str | None) -> None:
    """Tell whether FILE can be used as a model reference. No server is needed.

    Exits with 1 after listing the entries that would be refused, or when there is none to use.
    """
    try:
        entries = entries_of(read_file(file), str(file))
    except ModelReferenceError as error:
        raise click.ClickException(str(error)) from error
    kind = KINDS[name] if name else kind_of(entries)
    reference = validate(entries, kind)
    click.echo(f"{len(reference.models)} {kind.name} models in {file}")
    _show_refused(reference.refused)
    if not reference.models:
        raise click.ClickException("There is no entry that can be used.")
    if reference.refused:
        sys.exit(1)


def _copy(kind: Kind[Any]) -> Copy[Any]:
    settings = load_settings()
    source = kind.source(settings)
    if not is_url(source):
        return file_copy(settings.config_path(source), kind)
    with command_platform() as platform:
        copy = stored_copy(platform, kind)
    if copy is None:
        click.echo(f"Nothing came from {source} yet; the starter reference is used until then.", err=True)
        return file_copy(kind.starter, kind)
    return copy


def _show_refused(refused: Mapping[str, str]) -> None:
    for name, reason in refused.items():
        click.echo(f"Refused: {name}: {reason}", err=True)


def _ago(seconds: float) -> str:
    return f"{timedelta(seconds=max(0, int(seconds)))} ago"


def _facts(model: ImageModel | TextModel) -> list[str]:
    return _text_facts(model) if isinstance(model, TextModel) else _image_facts(model)


def _text_facts(model: TextModel) -> list[str]:
    facts = [f"{model.parameters / 1e9:g} billion parameters"]
    if model.nsfw:
        facts.append("nsfw")
    return facts


def _image_facts(model: ImageModel) -> list[str]:
    facts = [model.baseline if model.baseline in KNOWN_BASELINES else f"{model.baseline} (no rule knows it)"]
    if model.nsfw:
        facts.append("nsfw")
    if model.inpainting:
        facts.append("inpainting")
    if model.size_on_disk_bytes is not None:
        files = len(model.config.files)
        size = f"{model.size_on_disk_bytes / 1e9:.1f} GB"
        facts.append(f"{size} in {files} files" if files > 1 else size)
    facts += _requirements(model.requirements)
    if model.features_not_supported:
        facts.append(f"not supported: {', '.join(model.features_not_supported)}")
    return facts


def _requirements(requirements: Requirements) -> list[str]:
    given = requirements.model_dump(exclude_defaults=True)
    return [
        f"{name} {', '.join(value) if isinstance(value, tuple) else value}" for name, value in given.items()
    ]
