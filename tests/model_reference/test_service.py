import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horde.model_reference.rules import KNOWN_BASELINES
from horde.model_reference.service import ModelReferenceError, image_models, load_image_models
from horde.platform.runtime import Platform
from horde.sample_worker import DEFAULT_MODELS
from horde.settings import ROOT

STARTER = ROOT / "config" / "models" / "image.json"

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


def load(tmp_path: Path, entries: Any) -> Any:
    path = tmp_path / "models.json"
    path.write_text(json.dumps(entries))
    return load_image_models(path)


def test_reads_an_entry_with_everything(tmp_path: Path) -> None:
    reference = load(tmp_path, {"Quick": LIKE_A_PUBLISHED_ENTRY})
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


def test_what_an_entry_leaves_out_is_neutral(tmp_path: Path) -> None:
    model = load(tmp_path, {"Plain": {}}).models["Plain"]
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
def test_bad_entries_are_refused_with_the_reason_and_the_rest_stays(
    tmp_path: Path, entry: Any, reason: str
) -> None:
    reference = load(tmp_path, {"Bad": entry, "Good": {"name": "Good"}})
    assert list(reference.models) == ["Good"]
    assert list(reference.refused) == ["Bad"]
    assert reason in reference.refused["Bad"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000])
def test_a_broken_file_raises(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "models.json"
    path.write_bytes(content)
    with pytest.raises(ModelReferenceError, match=r"models\.json"):
        load_image_models(path)


def test_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(ModelReferenceError, match="nowhere"):
        load_image_models(tmp_path / "nowhere.json")


def test_the_starter_reference_is_whole() -> None:
    reference = load_image_models(STARTER)
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


def test_the_server_reads_its_reference_once_until_told_otherwise(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text('{"First": {}}')
    settings = platform.settings.model_copy(update={"model_reference_image": str(path)})
    platform = replace(platform, settings=settings)
    platform.local.drop("image_models")
    assert list(image_models(platform).models) == ["First"]
    path.write_text('{"Second": {}}')
    assert list(image_models(platform).models) == ["First"]
    platform.local.drop("image_models")
    assert list(image_models(platform).models) == ["Second"]
