"""What sets image styles apart, and image requests made with them."""

import orjson
from pydantic import ValidationError

from horde.generation.schemas import RequestSingleWarning
from horde.image import rules
from horde.image.requirements import Settings, fit
from horde.image.schemas import GenerationInputStable, ModelGenerationInputStable
from horde.image.style_schemas import ModelStyleInputParamsStable, StyleStable
from horde.model_reference.service import image_models
from horde.platform.errors import BadRequest
from horde.platform.runtime import Platform
from horde.styles.rules import styled_image_prompt
from horde.styles.service import Content, Kind
from horde.users.rules import UserFacts

OWN_SIZE = ("width", "height")
"""What a request says itself where its style does not."""


def _check(platform: Platform, user: UserFacts, content: Content) -> list[RequestSingleWarning]:
    """Hold a style against the rules for a request that says the same."""
    request = GenerationInputStable(prompt=content.prompt)
    update = {"models": list(content.models), "params": _params(request.params, content)}
    request = request.model_copy(update=update)
    models = image_models(platform).models
    rules.check_style(rules.case_of(request, user, models))
    params = request.params
    settings = Settings(
        steps=params.steps,
        cfg_scale=params.cfg_scale,
        sampler=params.sampler_name,
        karras=params.karras,
        clip_skip=params.clip_skip or 1,
    )
    return [
        RequestSingleWarning(code=mismatch.code, message=mismatch.warning(name, "warn"))
        for name in content.models
        if name in models
        for mismatch in fit(settings, models[name].requirements)[1]
    ]


IMAGE = Kind("image", StyleStable, ModelStyleInputParamsStable, ("{p}", "{np}"), _check)


def with_content(request: GenerationInputStable, content: Content) -> GenerationInputStable:
    """`request` with the prompt, models and parameters that a style makes of it.

    Of its own parameters there remain the number of images, where the style sets no size the size, and the
    texts that the style's workflow needs. Raises, with 400, `InvalidPromptSize` for a prompt that becomes
    too long, and `BadRequest` for a style whose parameters cannot be asked for any more.
    """
    return request.model_copy(
        update={
            "prompt": styled_image_prompt(content.prompt, request.prompt),
            "models": list(content.models),
            "params": _params(request.params, content),
        }
    )


def _params(own: ModelGenerationInputStable, content: Content) -> ModelGenerationInputStable:
    names = {"n", *(name for name in OWN_SIZE if name in own.model_fields_set)}
    if "workflow" in content.params:
        names.add("extra_texts")
    kept = own.model_dump(include=names)
    try:
        return ModelGenerationInputStable.model_validate_json(orjson.dumps({**kept, **content.params}))
    except ValidationError as error:
        raise BadRequest(
            "This style is out of date and cannot be used. Ask its owner to change it."
        ) from error
