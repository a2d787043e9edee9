"""The rules about what may be asked for together: each broken rule, its status, its code, its words."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from horde.settings import ROOT
from horde.users.rules import Role
from tests.support import (
    CASCADE,
    FLUX,
    MODEL,
    PICTURE,
    SDXL,
    Horde,
    another_process,
    assert_refused,
    count_rows,
    unchanged,
)

SD2 = "stable_diffusion_2.1"
QWEN, Z_IMAGE, UNKNOWN_SDXL = "something [Qwen]", "something [ZImage]", "something [SDXL]"
IMAGE = {"image": PICTURE}
QR_TEXTS = [{"text": "https://example.com", "reference": "qr_code"}]


def loras(count: int, **values: Any) -> list[dict[str, Any]]:
    return [{"name": str(number)} | values for number in range(count)]


Row = tuple[dict[str, Any], dict[str, Any], int, str, str]

PARAMETERS: list[Row] = [
    ({"models": [FLUX]}, {"hires_fix": True}, 400, "HiResMismatch", "hires_fix"),
    ({"models": [MODEL, QWEN]}, {"hires_fix": True}, 400, "HiResMismatch", "hires_fix"),
    ({"models": [Z_IMAGE]}, {"hires_fix": True}, 400, "HiResMismatch", "hires_fix"),
    ({}, {"loras": loras(6)}, 400, "TooManyLoras", "5 LoRAs"),
    ({}, {"loras": loras(1, name="v1.0", is_version=True)}, 400, "BadLoraVersion", "is_version"),
    ({}, {"loras": loras(1, name="²", is_version=True)}, 400, "BadLoraVersion", "digits"),
    ({}, {"tis": loras(21)}, 400, "TooManyTIs", "20 textual inversions"),
    ({"models": [SD2]}, {"transparent": True}, 400, "InvalidTransparencyModel", "transparent"),
    ({"models": [MODEL, CASCADE]}, {"transparent": True}, 400, "InvalidTransparencyModel", "transparent"),
    (
        {"models": [SD2]},
        {"workflow": "qr_code", "extra_texts": QR_TEXTS},
        400,
        "ControlNetMismatch",
        "qr_code",
    ),
    ({"prompt": "word " * 7501}, {}, 400, "InvalidPromptSize", "7500 words"),
    ({"prompt": "x" * 100_001}, {}, 400, "InvalidPromptSize", "100000 characters"),
    ({"models": [MODEL, "CodeFormers"]}, {}, 400, "UnexpectedModelName", "post_processing"),
    ({"models": ["RealESRGAN_x4plus"]}, {}, 400, "UnexpectedModelName", "post_processing"),
    (
        {},
        {"post_processing": ["NMKD_Siax", "GFPGAN", "4x_AnimeSharp"]},
        400,
        "TooManyUpscalers",
        "one upscaler",
    ),
    ({}, {"cfg_scale": 5.125}, 400, "BadCFGDecimals", "cfg_scale"),
    ({}, {"cfg_scale": 99.999999999}, 400, "BadCFGDecimals", "cfg_scale"),
    ({}, {"cfg_scale": 1e-300}, 400, "BadCFGDecimals", "cfg_scale"),
    ({"models": [f"model {number}" for number in range(201)]}, {}, 400, "BadRequest", "200 models"),
]

SOURCES: list[Row] = [
    ({"source_mask": PICTURE}, {}, 400, "SourceMaskUnnecessary", "source_image"),
    (
        {"models": [SD2], "source_image": PICTURE},
        {"control_type": "normal"},
        400,
        "ControlNetUnsupported",
        "control type normal",
    ),
    (
        {"models": [SD2], "source_image": PICTURE},
        {"control_type": "hough"},
        400,
        "ControlNetUnsupported",
        "control type hough",
    ),
    (
        {"models": ["pix2pix"], "source_image": PICTURE},
        {"control_type": "canny"},
        400,
        "ControlNetUnsupported",
        "control type canny",
    ),
    ({}, {"control_type": "canny"}, 400, "ControlNetSourceMissing", "source_image"),
    (
        {"source_image": PICTURE, "source_processing": "inpainting"},
        {"control_type": "canny"},
        400,
        "ControlNetInpaintingMismatch",
        "inpainting",
    ),
    *(
        (
            {"models": [model], "source_image": PICTURE},
            {"control_type": "canny"},
            400,
            "ControlNetMismatch",
            "control types",
        )
        for model in (SDXL, UNKNOWN_SDXL, CASCADE, FLUX, QWEN, Z_IMAGE)
    ),
    (
        {"source_image": PICTURE},
        {"control_type": "canny", "image_is_control": True, "return_control_map": True},
        400,
        "ControlNetInvalidPayload",
        "return_control_map",
    ),
    ({"extra_source_images": [IMAGE]}, {"transparent": True}, 400, "InvalidTransparencyImg2Img", "source"),
    ({"source_image": PICTURE}, {"transparent": True}, 400, "InvalidTransparencyImg2Img", "source"),
    (
        {"source_image": PICTURE},
        {"transparent": True, "control_type": "canny"},
        400,
        "InvalidTransparencyCN",
        "transparent",
    ),
    ({"models": [MODEL], "source_processing": "remix"}, {}, 400, "InvalidRemix", "Cascade"),
    ({"models": [CASCADE, MODEL], "source_processing": "remix"}, {}, 400, "InvalidRemix", "remix"),
    ({"extra_source_images": [IMAGE]}, {}, 400, "InvalidExtraSourceImages", "remix"),
    ({}, {"extra_texts": QR_TEXTS}, 400, "InvalidExtraTexts", "qr_code"),
    ({}, {"workflow": "qr_code"}, 400, "MissingExtraTexts", "extra_texts"),
    (
        {},
        {"workflow": "qr_code", "extra_texts": [{"text": "a", "reference": "other"}]},
        400,
        "MissingExtraTexts",
        "reference",
    ),
    ({"models": ["pix2pix"]}, {}, 400, "SourceImageRequiredForModel", "source_image"),
    (
        {"models": [MODEL, "Stable Diffusion 2 Depth"]},
        {},
        400,
        "SourceImageRequiredForModel",
        "source_image",
    ),
]

SENDERS: list[Row] = [
    ({"proxied_account": "somebody"}, {}, 400, "OnlyServiceAccountProxy", "proxied_account"),
    ({"extra_source_images": [IMAGE] * 6}, {}, 400, "TooManyExtraSourceImages", "5 extra source images"),
    ({"extra_source_images": [IMAGE] * 2}, {}, 400, "MoreThanMinExtraSourceImage", "trusted"),
    ({"disable_batching": True}, {"n": 2}, 400, "RequiresTrust", "disable_batching"),
    ({"models": ["horde_special::x"]}, {}, 403, "SpecialModelNeedsSpecialUser", "special role"),
    ({}, {"special": {"a": {"b": 1}}}, 400, "SpecialFieldNeedsSpecialUser", "params.special"),
]


def name(row: Row) -> str:
    return row[3]


def assert_rule(
    horde: Horde, fields: dict[str, Any], params: dict[str, Any], status: int, rc: str, word: str
) -> None:
    """Asking is refused by the rule, for everybody and also as a dry run, and nothing is left of it."""
    with unchanged(horde.platform):
        assert_refused(horde.ask(**fields, params=params), status, rc, word)
        assert_refused(horde.ask(**fields, params=params, dry_run=True), status, rc, word)


@pytest.mark.parametrize("row", PARAMETERS, ids=name)
def test_parameters(horde: Horde, row: Row) -> None:
    assert_rule(horde, *row)


@pytest.mark.parametrize("row", SOURCES, ids=name)
def test_sources_and_control(horde: Horde, row: Row) -> None:
    assert_rule(horde, *row)


@pytest.mark.parametrize("row", SENDERS, ids=name)
def test_what_an_ordinary_account_may_not_ask_for(horde: Horde, row: Row) -> None:
    assert_rule(horde, *row)


def test_special_models(horde: Horde) -> None:
    user, other = horde.account(Role.SPECIAL, amount=500), horde.account(Role.SPECIAL)
    own = f"horde_special::{user.alias}"
    special = {"special": {"anything": {"at": "all"}}}
    for models, params, status, rc, word in (
        (["horde_special"], special, 400, "SpecialMissingUsername", "'::'"),
        ([f"horde_special::{other.alias}"], special, 403, "SpecialForbidden", "another user"),
        ([own, f"horde_special::{other.alias}"], special, 403, "SpecialForbidden", other.alias),
        ([own], {}, 400, "SpecialMissingPayload", "params.special"),
        ([own], {"special": {}}, 400, "SpecialMissingPayload", "params.special"),
    ):
        with unchanged(horde.platform):
            assert_refused(horde.ask(user, models=models, params=params), status, rc, word)
    horde.asked(user, models=[own], params=special)
    offer = {"models": [own, MODEL], "priority_usernames": [user.alias]}
    assert_refused(horde.pop(other, "stranger", **offer), 400, "BadRequest", "another user")
    job = horde.popped(user, "own worker", **offer)
    assert (job["model"], job["payload"]["special"]) == (own, special["special"])


def test_accounts_to_be_deleted(horde: Horde) -> None:
    user = horde.account(Role.DELETED, amount=500)
    with unchanged(horde.platform):
        assert_refused(horde.ask(user), 403, "DeletedUser", "deletion")


def test_the_placeholder_of_the_documentation_is_no_client_agent(horde: Horde) -> None:
    with unchanged(horde.platform):
        response = horde.ask(agent="My-Project:v0.0.1:My-Contact")
        assert_refused(response, 403, "BannedClientAgent", "Client-Agent")
    assert horde.ask(agent="My-Project:v0.0.2:My-Contact").status_code == 202


def test_what_roles_allow(horde: Horde) -> None:
    service, trusted = horde.account(Role.SERVICE), horde.account(Role.TRUSTED)
    horde.asked(service, proxied_account="somebody")
    horde.asked(trusted, disable_batching=True, params={"n": 2})
    horde.asked(trusted, models=[CASCADE], source_processing="remix", extra_source_images=[IMAGE] * 2)


def test_a_controlnet_is_no_model(horde: Horde, tmp_path: Path) -> None:
    reference = orjson.loads((ROOT / "config" / "models" / "image.json").read_bytes())
    reference["control_canny"] = reference[MODEL] | {"name": "control_canny", "type": "controlnet"}
    path = tmp_path / "image.json"
    path.write_bytes(orjson.dumps(reference))
    with unchanged(horde.platform), another_process(horde, model_reference_image=str(path)) as informed:
        response = informed.ask(models=["control_canny"])
    assert_refused(response, 400, "UnexpectedModelName", "control_type")


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"models": [MODEL, SD2, SDXL, CASCADE]}, {"hires_fix": True}),
        ({}, {"loras": loras(5, name="123", is_version=True)}),
        ({}, {"tis": loras(20)}),
        ({"models": [MODEL, SDXL, UNKNOWN_SDXL]}, {"transparent": True}),
        ({"models": [MODEL, SDXL]}, {"workflow": "qr_code", "extra_texts": QR_TEXTS}),
        ({"prompt": "word " * 7500}, {}),
        ({"prompt": "x" * 100_000}, {}),
        ({}, {"post_processing": ["NMKD_Siax", "GFPGAN", "CodeFormers", "strip_background"]}),
        *(({}, {"cfg_scale": scale}) for scale in (0, 0.01, 0.07, 1.1, 5.55, 99.99, 100)),
        ({"models": [f"model {number}" for number in range(200)] * 2}, {}),
        ({"models": [CASCADE], "source_processing": "remix"}, {}),
        ({"source_processing": "inpainting"}, {}),
    ],
)
def test_what_just_keeps_the_rules(horde: Horde, fields: dict[str, Any], params: dict[str, Any]) -> None:
    horde.asked(**fields, params=params)
    assert count_rows(horde.platform)["requests"] == 1
