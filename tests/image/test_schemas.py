"""Bodies of image calls: what they accept, refuse and ignore; and which keys answers hold."""

import copy
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from horde.generation.schemas import RequestAsync, RequestSingleWarning
from horde.image.schemas import (
    GenerationInputStable,
    GenerationPayloadStable,
    GenerationStable,
    ModelPayloadStable,
    NoValidRequestFoundStable,
    PopInputStable,
    RequestStatusStable,
    SubmitInputStable,
)
from horde.platform.http.fields import Input
from horde.platform.http.swagger import definitions

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

Path = tuple[str | int, ...]


class Place(NamedTuple):
    """A field of a body, and what the Swagger document says about it."""

    schema: type[Input]
    path: Path
    facts: dict[str, Any]


def resolved(node: Any, made: dict[str, Any]) -> Any:
    """A part of the Swagger document with its references replaced by what they refer to."""
    if isinstance(node, list):
        return [resolved(part, made) for part in node]
    if not isinstance(node, dict):
        return node
    if "allOf" in node:
        return resolved(node["allOf"][0], made)
    if "$ref" in node:
        return resolved(made[node["$ref"].rsplit("/", 1)[1]], made)
    return {key: resolved(part, made) for key, part in node.items()}


def published(schema: type[Input]) -> dict[str, Any]:
    """What the Swagger document says of a body."""
    made = definitions([schema], [])
    return resolved(made[schema.__name__], made)


def places(schema: type[Input]) -> Iterator[Place]:
    """Every field at every level; list entries come as index 0."""

    def walk(facts: dict[str, Any], path: Path) -> Iterator[Place]:
        if path:
            yield Place(schema, path, facts)
        for name, inner in facts.get("properties", {}).items():
            yield from walk(inner, (*path, name))
        if "items" in facts:
            yield from walk(facts["items"], (*path, 0))

    yield from walk(published(schema), ())


def sample(facts: dict[str, Any]) -> Any:
    """The least that satisfies a field."""
    if "enum" in facts:
        return facts["enum"][0]
    match facts["type"]:
        case "string":
            return "x" * facts.get("minLength", 1)
        case "boolean":
            return True
        case "array":
            return []
        case "object":
            return {name: sample(facts["properties"][name]) for name in facts.get("required", [])}
    return facts.get("minimum", 1)


def body(schema: type[Input], path: Path, value: Any) -> Any:
    """The least valid body, with `value` at `path`."""

    def build(facts: dict[str, Any], rest: Path) -> Any:
        if not rest:
            return value
        if rest[0] == 0:
            return [build(facts["items"], rest[1:])]
        return {**sample(facts), rest[0]: build(facts["properties"][rest[0]], rest[1:])}

    return build(published(schema), path)


def read(schema: type[Input], content: Any) -> Any:
    return schema.model_validate_json(json.dumps(content))


def refused(schema: type[Input], content: Any) -> set[str]:
    """Dotted paths of what is wrong with a body."""
    try:
        read(schema, content)
    except ValidationError as error:
        return {".".join(map(str, detail["loc"])) for detail in error.errors()}
    return set()


def accepts(place: Place, value: Any) -> bool:
    return not refused(place.schema, body(place.schema, place.path, value))


def refuses(place: Place, value: Any) -> bool:
    """Whether `value` is refused, and nothing but its own field blamed."""
    wrong = refused(place.schema, body(place.schema, place.path, value))
    return wrong == {".".join(map(str, place.path))}


BODIES = [GenerationInputStable, PopInputStable, SubmitInputStable]
ALL = [place for schema in BODIES for place in places(schema)]


def of_type(*types: str) -> list[Any]:
    return [named(place) for place in ALL if place.facts.get("type") in types]


def named(place: Place) -> Any:
    return pytest.param(place, id=f"{place.schema.__name__}:{'.'.join(map(str, place.path))}")


BOUNDED = [named(place) for place in ALL if "minimum" in place.facts]
TEXTS = of_type("string")
LONGEST = [named(place) for place in ALL if "maxLength" in place.facts]
LISTS = [named(place) for place in ALL if "maxItems" in place.facts]
CHOICES = [named(place) for place in ALL if "enum" in place.facts]


def test_the_walk_finds_nested_fields() -> None:
    found = {(place.schema, place.path) for place in ALL}
    assert (GenerationInputStable, ("params", "loras", 0, "clip")) in found
    assert (GenerationInputStable, ("extra_source_images", 0, "strength")) in found
    assert (SubmitInputStable, ("gen_metadata", 0, "ref")) in found


def test_the_bounds_of_the_published_api() -> None:
    side, denoising, strength = (64, 3072), (0.01, 1), (-5, 5)
    assert {
        ".".join(map(str, place.path)): (place.facts["minimum"], place.facts["maximum"])
        for place in ALL
        if "minimum" in place.facts
    } == {
        "params.cfg_scale": (0, 100),
        "params.denoising_strength": denoising,
        "params.hires_fix_denoising_strength": denoising,
        "params.height": side,
        "params.width": side,
        "params.seed_variation": (1, 1000),
        "params.clip_skip": (1, 12),
        "params.facefixer_strength": (0, 1),
        "params.loras.0.model": strength,
        "params.loras.0.clip": strength,
        "params.tis.0.strength": strength,
        "params.steps": (1, 500),
        "params.n": (1, 20),
        "threads": (1, 50),
        "amount": (1, 20),
        "wait": (0, 30),
    }


def test_the_numbers_without_bounds() -> None:
    assert {
        ".".join(map(str, place.path))
        for place in ALL
        if place.facts.get("type") in ("integer", "number") and "minimum" not in place.facts
    } == {"extra_source_images.0.strength", "max_pixels", "seed"}
    strength = Place(GenerationInputStable, ("extra_source_images", 0, "strength"), {})
    assert accepts(strength, -1e300)
    assert accepts(strength, 1e300)


@pytest.mark.parametrize("schema", BODIES)
def test_the_least_body_is_accepted(schema: type[Input]) -> None:
    assert not refused(schema, sample(published(schema)))


@pytest.mark.parametrize("place", BOUNDED)
def test_numbers_are_accepted_up_to_their_bounds_and_no_further(place: Place) -> None:
    least, most = place.facts["minimum"], place.facts["maximum"]
    step = 1 if place.facts["type"] == "integer" else 0.001
    assert accepts(place, least)
    assert accepts(place, most)
    assert refuses(place, least - step)
    assert refuses(place, most + step)


@pytest.mark.parametrize("side", ["width", "height"])
def test_sides_are_multiples_of_64(side: str) -> None:
    for value, fine in [(0, False), (64, True), (65, False), (96, False), (128, True), (3136, False)]:
        wrong = refused(GenerationInputStable, {"prompt": "x", "params": {side: value}})
        assert wrong == (set() if fine else {f"params.{side}"}), value


@pytest.mark.parametrize(("schema", "field"), [(PopInputStable, "max_pixels"), (SubmitInputStable, "seed")])
def test_integers_without_bounds_fit_into_64_bits(schema: type[Input], field: str) -> None:
    place = Place(schema, (field,), {})
    assert accepts(place, INT64_MIN)
    assert accepts(place, INT64_MAX)
    assert refuses(place, INT64_MIN - 1)
    assert refuses(place, INT64_MAX + 1)
    assert refuses(place, 1e300)


@pytest.mark.parametrize("place", of_type("integer"))
def test_integers_may_be_written_as_floats(place: Place) -> None:
    least = place.facts.get("minimum", 1)
    assert accepts(place, float(least))
    assert refuses(place, least + 0.5)
    parsed = read(place.schema, body(place.schema, place.path, float(least)))
    for part in place.path:
        parsed = parsed[part] if isinstance(part, int) else getattr(parsed, part)
    assert type(parsed) is int


@pytest.mark.parametrize("place", of_type("integer", "number"))
def test_numbers_are_neither_texts_nor_booleans(place: Place) -> None:
    least = place.facts.get("minimum", 1)
    assert refuses(place, str(least))
    assert refuses(place, True)
    assert refuses(place, "")


@pytest.mark.parametrize("place", of_type("number"))
def test_numbers_are_finite(place: Place) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        assert refuses(place, value)


@pytest.mark.parametrize("place", of_type("boolean"))
def test_booleans_are_true_or_false(place: Place) -> None:
    assert accepts(place, False)
    for value in ("true", 1, 0, ""):
        assert refuses(place, value)


@pytest.mark.parametrize("place", TEXTS)
def test_texts_are_texts(place: Place) -> None:
    for value in (12345, True, ["x"], {}):
        assert refuses(place, value)


@pytest.mark.parametrize("place", LONGEST)
def test_texts_have_a_longest_length(place: Place) -> None:
    assert accepts(place, "é" * place.facts["maxLength"])
    assert refuses(place, "é" * (place.facts["maxLength"] + 1))


@pytest.mark.parametrize("place", [named(place) for place in ALL if "minLength" in place.facts])
def test_texts_have_a_shortest_length(place: Place) -> None:
    assert accepts(place, "é" * place.facts["minLength"])
    assert refuses(place, "é" * (place.facts["minLength"] - 1))


@pytest.mark.parametrize("place", LISTS)
def test_lists_have_a_largest_size(place: Place) -> None:
    entry = sample(place.facts["items"])
    assert accepts(place, [entry] * place.facts["maxItems"])
    assert refused(place.schema, body(place.schema, place.path, [entry] * (place.facts["maxItems"] + 1)))


@pytest.mark.parametrize("place", CHOICES)
def test_choices_are_the_published_ones(place: Place) -> None:
    for value in place.facts["enum"]:
        assert accepts(place, value)
    assert refuses(place, "no_such_choice")


@pytest.mark.parametrize("place", [named(place) for place in ALL])
def test_null_is_refused_everywhere(place: Place) -> None:
    assert refuses(place, None)


@pytest.mark.parametrize("schema", BODIES)
@pytest.mark.parametrize("content", [None, [], "x", 1, True])
def test_a_body_is_an_object(schema: type[Input], content: Any) -> None:
    assert refused(schema, content)


@pytest.mark.parametrize("schema", BODIES)
def test_unknown_keys_are_ignored_at_every_level(schema: type[Input]) -> None:
    content = sample(published(schema))
    for place in places(schema):
        if place.facts.get("type") == "object" and "properties" in place.facts:
            nested = body(schema, place.path, sample(place.facts) | {"no_such_key": {"a": [1]}})
            assert read(schema, nested) == read(schema, body(schema, place.path, sample(place.facts)))
    assert read(schema, copy.deepcopy(content) | {"bridge_version": 9}) == read(schema, content)


def test_every_violation_is_told_at_once() -> None:
    wrong = {
        "nsfw": "yes",
        "models": ["ok", 3],
        "webhook": "short",
        "params": {
            "width": 65,
            "steps": 0,
            "sampler_name": "k_nothing",
            "loras": [{"name": "a"}, {"model": 6}],
            "tis": [{"name": "", "inject_ti": "middle"}],
        },
    }
    assert refused(GenerationInputStable, wrong) == {
        "prompt",
        "nsfw",
        "models.1",
        "webhook",
        "params.width",
        "params.steps",
        "params.sampler_name",
        "params.loras.1.name",
        "params.loras.1.model",
        "params.tis.0.name",
        "params.tis.0.inject_ti",
    }


@pytest.mark.parametrize(
    ("schema", "missing"),
    [(GenerationInputStable, {"prompt"}), (PopInputStable, {"name"}), (SubmitInputStable, {"id", "seed"})],
)
def test_required_fields(schema: type[Input], missing: set[str]) -> None:
    assert refused(schema, {}) == missing


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        ({"extra_source_images": [{"strength": 0.5}]}, "extra_source_images.0.image"),
        ({"params": {"extra_texts": [{"text": "a"}]}}, "params.extra_texts.0.reference"),
        ({"params": {"extra_texts": [{"reference": "qr_code"}]}}, "params.extra_texts.0.text"),
        ({"params": {"loras": [{}]}}, "params.loras.0.name"),
        ({"params": {"tis": [{}]}}, "params.tis.0.name"),
    ],
)
def test_parts_have_required_fields(content: dict[str, Any], missing: str) -> None:
    assert refused(GenerationInputStable, {"prompt": "x", **content}) == {missing}


def test_defaults_of_a_request() -> None:
    request = read(GenerationInputStable, {"prompt": "x"})
    assert request.params == read(GenerationInputStable, {"prompt": "x", "params": {}}).params
    assert (request.nsfw, request.censor_nsfw, request.validated_backends) == (True, True, False)
    assert (request.slow_workers, request.extra_slow_workers) == (True, False)
    assert (request.r2, request.replacement_filter, request.shared) == (True, True, False)
    assert (request.models, request.workers) == (["stable_diffusion"], [])
    assert (request.params.cfg_scale, request.params.karras, request.params.steps) == (5.0, True, 30)
    assert (request.params.sampler_name, request.params.width, request.params.n) == ("k_euler_a", 512, 1)


def test_an_empty_list_of_models_is_not_the_default() -> None:
    assert read(GenerationInputStable, {"prompt": "x", "models": []}).models == []


def test_defaults_of_a_pop() -> None:
    pop = read(PopInputStable, {"name": "w"})
    assert (pop.nsfw, pop.max_pixels, pop.threads, pop.amount) == (True, 262144, 1, 1)
    assert (pop.allow_img2img, pop.allow_painting, pop.allow_post_processing) == (True, True, True)
    assert (pop.allow_controlnet, pop.allow_sdxl_controlnet, pop.allow_lora) == (False, False, False)
    assert (pop.limit_max_steps, pop.extra_slow_worker, pop.bridge_agent) == (
        False,
        False,
        "unknown:0:unknown",
    )


def test_an_empty_control_type_and_seed_count_as_absent() -> None:
    params = read(GenerationInputStable, {"prompt": "x", "params": {"control_type": "", "seed": ""}}).params
    assert params.control_type is None
    assert not params.seed


def test_post_processors_keep_their_order_and_are_not_repeated() -> None:
    def content(*names: str) -> dict[str, Any]:
        return {"prompt": "x", "params": {"post_processing": list(names)}}

    given = read(GenerationInputStable, content("strip_background", "GFPGAN"))
    assert given.params.post_processing == ["strip_background", "GFPGAN"]
    assert refused(GenerationInputStable, content("GFPGAN", "GFPGAN")) == {"params.post_processing"}


def test_special_is_an_object_of_objects_without_infinities() -> None:
    def special(value: Any) -> set[str]:
        return refused(GenerationInputStable, {"prompt": "x", "params": {"special": value}})

    assert not special({"a": {"b": [1, {"c": None}]}})
    assert special({"a": 1}) == {"params.special.a"}
    assert special({"a": {"b": float("nan")}}) == {"params.special.a"}


def test_more_than_five_loras_are_left_to_a_rule_with_its_own_code() -> None:
    loras = [{"name": "x"}] * 6
    assert not refused(GenerationInputStable, {"prompt": "x", "params": {"loras": loras}})


def test_a_pop_without_job_prints_nulls_outside_and_defaults_inside() -> None:
    skipped = NoValidRequestFoundStable(models=3, post_processing=0, worker_id=0)
    assert json.loads(GenerationPayloadStable(skipped=skipped).model_dump_json()) == {
        "id": None,
        "ids": [],
        "payload": {
            "ddim_steps": 30,
            "n_iter": 1,
            "sampler_name": "k_euler_a",
            "cfg_scale": 7.5,
            "height": 512,
            "width": 512,
            "karras": False,
            "tiling": False,
            "hires_fix": False,
            "transparent": False,
            "image_is_control": False,
            "return_control_map": False,
        },
        "model": None,
        "ttl": None,
        "source_image": None,
        "source_processing": "img2img",
        "source_mask": None,
        "extra_source_images": None,
        "r2_upload": None,
        "r2_uploads": None,
        "skipped": {"models": 3, "post-processing": 0, "worker_id": 0},
        "messages": [],
    }


def test_a_popped_payload_leaves_out_what_its_parts_lack() -> None:
    params = read(
        GenerationInputStable,
        {"prompt": "x", "params": {"seed": "7", "loras": [{"name": "a"}], "tis": [{"name": "b"}]}},
    ).params
    stored = params.model_dump(exclude={"steps", "n"})
    payload = json.loads(ModelPayloadStable(**stored, prompt="x", ddim_steps=20).model_dump_json())
    assert (payload["cfg_scale"], payload["karras"], payload["ddim_steps"]) == (5.0, True, 20)
    assert payload["loras"] == [{"name": "a", "model": 1.0, "clip": 1.0, "is_version": False}]
    assert payload["tis"] == [{"name": "b", "strength": 1.0}]
    assert "post_processing" not in payload


def test_an_accepted_request_has_no_empty_message_or_warnings() -> None:
    assert json.loads(RequestAsync(id="i", kudos=1).model_dump_json()) == {"id": "i", "kudos": 1.0}
    warned = RequestAsync(
        id="i", kudos=1, warnings=[RequestSingleWarning(code="StepsTooFew", message="too few")]
    )
    assert json.loads(warned.model_dump_json())["warnings"] == [{"code": "StepsTooFew", "message": "too few"}]


def test_a_status_lists_metadata_without_nulls() -> None:
    submitted = read(
        SubmitInputStable,
        {"id": "j", "seed": 0, "gen_metadata": [{"type": "censorship", "value": "nsfw"}]},
    )
    image = GenerationStable(
        id="j",
        img="https://example.com/j.webp",
        seed="0",
        model="m",
        worker_id="6f1c2a34-8d5e-4b7a-9c0d-1e2f3a4b5c6d",
        worker_name="w",
        censored=True,
        state="censored",
        gen_metadata=submitted.gen_metadata,
    )
    counts = dict.fromkeys(("finished", "processing", "restarted", "waiting", "wait_time"), 0)
    status = RequestStatusStable(**counts, done=True, queue_position=0, kudos=1, generations=[image])
    answer = json.loads(status.model_dump_json())
    assert answer["generations"][0]["gen_metadata"] == [{"type": "censorship", "value": "nsfw"}]
    assert (answer["faulted"], answer["is_possible"], answer["shared"]) == (False, True, False)
