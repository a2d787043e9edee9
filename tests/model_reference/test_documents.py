"""Documents: what of them is used, what is refused and why, and those that come with the program."""

import json
from pathlib import Path
from typing import Any

import pytest

from horde.model_reference.documents import (
    IMAGE,
    TEXT,
    ModelReferenceError,
    entries_of,
    kind_of,
    parse,
    validate,
)
from horde.model_reference.rules import KNOWN_BASELINES
from horde.model_reference.schemas import ImageModel, ModelReference, TextModel
from horde.model_reference.sources import MAX_BYTES, read_file
from horde.sample_worker import DEFAULT_MODELS

LIKE_A_PUBLISHED_ENTRY = {
    "name": "Quick",
    "baseline": "stable_diffusion_xl",
    "type": "ckpt",
    "inpainting": False,
    "description": "Anything",
    "showcases": ["https://example.org/1.webp"],
    "version": "1.0",
    "style": "generalist",
    "nsfw": True,
    "download_all": False,
    "requirements": {
        "min_steps": 3,
        "max_steps": 8,
        "min_cfg_scale": 1,
        "max_cfg_scale": 2.5,
        "clip_skip": 2,
        "samplers": ["k_euler"],
        "schedulers": ["karras"],
        "something_new": 5,
    },
    "config": {
        "files": [{"path": "a.safetensors", "sha256sum": "0" * 64}, {"path": "a.yaml"}],
        "download": [{"file_url": "https://example.org/a"}],
    },
    "features_not_supported": ["hires_fix"],
    "size_on_disk_bytes": 17_246_524_772,
    "optimization": "lightning",
}


def load(entries: dict[str, Any]) -> ModelReference[ImageModel]:
    return parse(json.dumps(entries).encode(), "models.json", IMAGE)


def test_reads_an_entry_with_everything() -> None:
    reference = load({"Quick": LIKE_A_PUBLISHED_ENTRY})
    assert not reference.refused
    model = reference.models["Quick"]
    assert (model.name, model.baseline, model.type) == ("Quick", "stable_diffusion_xl", "ckpt")
    assert model.nsfw
    assert not model.inpainting
    assert model.requirements.max_steps == 8
    assert model.requirements.max_cfg_scale == 2.5
    assert model.requirements.cfg_scale is None
    assert model.requirements.samplers == ("k_euler",)
    assert model.features_not_supported == ("hires_fix",)
    assert [file.path for file in model.config.files] == ["a.safetensors", "a.yaml"]
    assert model.size_on_disk_bytes == 17_246_524_772


def test_what_an_entry_leaves_out_is_neutral() -> None:
    model = load({"Plain": {}}).models["Plain"]
    assert (model.name, model.baseline, model.type) == ("Plain", "stable diffusion 1", "ckpt")
    assert not model.nsfw
    assert model.requirements.samplers == ()
    assert model.size_on_disk_bytes is None


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ([], "not an object"),
        (None, "not an object"),
        ({"name": "Other"}, "Other"),
        ({"nsfw": "yes"}, "nsfw"),
        ({"nsfw": None}, "nsfw"),
        ({"baseline": ""}, "baseline"),
        ({"baseline": 5}, "baseline"),
        ({"size_on_disk_bytes": -1}, "size_on_disk_bytes"),
        ({"requirements": {"min_steps": 0}}, "requirements.min_steps"),
        ({"requirements": {"max_steps": "8"}}, "requirements.max_steps"),
        ({"requirements": {"min_steps": 9, "max_steps": 8}}, "min_steps is above max_steps"),
        ({"requirements": {"min_cfg_scale": 3, "max_cfg_scale": 2}}, "min_cfg_scale is above"),
        ({"requirements": {"clip_skip": 13}}, "requirements.clip_skip"),
        ({"requirements": {"samplers": "k_euler"}}, "requirements.samplers"),
        ({"config": {"files": [{"path": "a", "sha256sum": "abc"}]}}, "config.files.0.sha256sum"),
    ],
)
def test_bad_entries_are_refused_with_the_reason_and_the_rest_stays(entry: Any, reason: str) -> None:
    reference = load({"Bad": entry, "Good": {"name": "Good"}})
    assert list(reference.models) == ["Good"]
    assert list(reference.refused) == ["Bad"]
    assert reason in reference.refused["Bad"]


@pytest.mark.parametrize("parameters", [None, "7000000000", 7e9, 0, -1, 10**15, True])
def test_a_text_model_needs_a_number_of_parameters(parameters: Any) -> None:
    entries = {"org/Good": {"parameters": 1}, "org/Bad": {"parameters": parameters}, "org/None": {}}
    reference = validate(entries, TEXT)
    assert reference.models == {"org/Good": TextModel(name="org/Good", parameters=1, nsfw=False)}
    assert set(reference.refused) == {"org/Bad", "org/None"}
    assert all("parameters" in reason for reason in reference.refused.values())


def test_what_text_entries_say_besides_is_passed_over() -> None:
    entry = {
        "name": "koboldcpp/Good-7B",
        "model_name": "Good-7B",
        "baseline": "",
        "parameters": 7_000_000_000,
        "description": "",
        "version": "1",
        "style": "generalist",
        "nsfw": True,
        "display_name": "Good 7B",
        "url": "https://example.org",
        "tags": ["7B"],
        "instruct_format": "ChatML",
        "settings": {"temperature": 0.7},
    }
    reference = validate({"koboldcpp/Good-7B": entry}, TEXT)
    assert not reference.refused
    assert reference.models["koboldcpp/Good-7B"].nsfw


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b"{}", b'{"a": 1, "b": {"nsfw": 1}}'],
)
def test_a_document_without_anything_to_use_raises(content: bytes) -> None:
    with pytest.raises(ModelReferenceError, match=r"models\.json"):
        parse(content, "models.json", IMAGE)


def test_kinds_are_told_apart_by_their_entries() -> None:
    for kind in (IMAGE, TEXT):
        assert kind_of(entries_of(read_file(kind.starter), "")) is kind


def test_a_missing_or_enormous_file_raises(tmp_path: Path) -> None:
    with pytest.raises(ModelReferenceError, match="nowhere"):
        read_file(tmp_path / "nowhere.json")
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ModelReferenceError, match="32 MiB"):
        read_file(path)


def test_the_starter_reference_of_image_models_is_whole() -> None:
    reference = parse(read_file(IMAGE.starter), "", IMAGE)
    assert not reference.refused
    models = reference.models
    assert {model.baseline for model in models.values()} <= KNOWN_BASELINES
    assert set(DEFAULT_MODELS) <= set(models)
    assert models["stable_diffusion"].baseline == "stable diffusion 1"
    assert len(models["Stable Cascade 1.0"].config.files) == 2
    assert models["Pony Diffusion XL"].requirements.clip_skip == 2
    assert models["DreamShaper XL"].requirements.samplers == ("k_dpmpp_sde",)
    assert any(model.inpainting for model in models.values())
    assert any(model.baseline == "flux_1" for model in models.values())


def test_the_starter_reference_of_text_models_is_whole() -> None:
    reference = parse(read_file(TEXT.starter), "", TEXT)
    assert not reference.refused
    models = reference.models
    plain = {name for name in models if not name.startswith(("aphrodite/", "koboldcpp/"))}
    assert len(plain) >= 5
    for name in plain:
        variants = {models[variant].parameters for variant in (f"aphrodite/{name}", _koboldcpp(name))}
        assert variants == {models[name].parameters}
    assert len(models) == 3 * len(plain)


def _koboldcpp(name: str) -> str:
    return f"koboldcpp/{name.split('/')[1]}"
