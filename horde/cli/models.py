"""`horde models`: the model reference."""

import click

from horde.model_reference.rules import KNOWN_BASELINES
from horde.model_reference.schemas import ImageModel, Requirements
from horde.model_reference.service import ModelReferenceError, load_image_models
from horde.settings import load_settings


@click.group()
def models() -> None:
    """Look at the models that this horde knows."""


@models.command()
def show() -> None:
    """List the image models of the reference, and the entries that were refused with the reason.

    The file is the one that the setting MODEL_REFERENCE_IMAGE names.
    """
    settings = load_settings()
    path = settings.config_path(settings.model_reference_image)
    try:
        reference = load_image_models(path)
    except ModelReferenceError as error:
        raise click.ClickException(str(error)) from error
    width = max(map(len, reference.models), default=0)
    for name, model in sorted(reference.models.items()):
        click.echo(f"{name:{width}}  {'; '.join(_facts(model))}")
    click.echo(f"{len(reference.models)} image models in {path}")
    for name, reason in reference.refused.items():
        click.echo(f"Refused: {name}: {reason}", err=True)


def _facts(model: ImageModel) -> list[str]:
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
