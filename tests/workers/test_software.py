from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.generation.post_processors import POST_PROCESSORS
from horde.sample_worker import BRIDGE_AGENT
from horde.settings import ROOT
from horde.workers.software import CAPABILITIES, SoftwareTableError, Version, load_software

SHIPPED = ROOT / "config" / "worker_software.toml"
TABLE = load_software(SHIPPED)
URL = "https://example.org/worker:8080"
RE_GEN = "AI Horde Worker reGen"
ADDED_IN_13 = {
    "4xNomos8kSC",
    "4xLSDIRplus",
    "4xNomosWebPhoto_RealPLKSR",
    "4xNomos2_realplksr_dysample",
    "4xNomos2_hq_dat2",
    "2xModernSpanimationV1",
    "GFPGANv1.3",
    "RestoreFormer",
}


def capabilities(agent: str) -> frozenset[str]:
    return TABLE.capabilities(f"{agent}:{URL}").capabilities


def test_the_newest_official_program_can_do_everything() -> None:
    assert capabilities(f"{RE_GEN}:13") == CAPABILITIES
    assert POST_PROCESSORS < CAPABILITIES


@pytest.mark.parametrize(
    ("agent", "has", "lacks"),
    [
        (f"{RE_GEN}:10.1.2", {"flux", "layer_diffuse"}, ADDED_IN_13),
        (f"{RE_GEN}:1", {"img2img", "controlnet", "RealESRGAN_x2plus"}, {"lora", "lora_versions"}),
        (f"{RE_GEN}:2.0.0-rc.1", {"img2img"}, {"lora"}),
        (f"{RE_GEN}:8", {"layer_diffuse", "qr_code"}, {"flux"}),
        ("AI Horde Worker:24", {"textual_inversion", "lora"}, {"tiling", "flux", "lora_versions"}),
        ("AI Horde Worker:7", {"post-processing", "GFPGAN"}, {"r2", "CodeFormers"}),
        ("SD-WebUI Stable Horde Worker Bridge:3", {"inpainting", "r2_source"}, {"img2img", "clip_skip"}),
        ("HordeAutoWebBridge:1", {"img2img", "inpainting"}, {"r2", "tiling", "painting"}),
    ],
)
def test_capabilities_by_version(agent: str, has: set[str], lacks: set[str]) -> None:
    found = capabilities(agent)
    assert has <= found
    assert not lacks & found


@pytest.mark.parametrize(
    ("agent", "with_karras", "without_karras"),
    [
        (f"{RE_GEN}:2", {"DDIM", "k_euler"}, {"DDIM", "k_euler"}),
        (f"{RE_GEN}:3", {"lcm"}, {"lcm"}),
        ("AI Horde Worker:17", {"dpmsolver", "k_dpmpp_sde"}, {"DDIM"}),
        ("HordeAutoWebBridge:1", {"k_lms"}, {"k_lms", "k_euler_a"}),
    ],
)
def test_samplers(agent: str, with_karras: set[str], without_karras: set[str]) -> None:
    software = TABLE.capabilities(f"{agent}:{URL}")
    assert with_karras <= software.samplers_with_karras <= software.samplers_without_karras
    assert without_karras <= software.samplers_without_karras


def test_samplers_that_cannot_do_karras() -> None:
    assert "DDIM" not in TABLE.capabilities(f"AI Horde Worker:24:{URL}").samplers_with_karras
    assert "k_euler_a" not in TABLE.capabilities(f"HordeAutoWebBridge:2:{URL}").samplers_with_karras
    assert "lcm" not in TABLE.capabilities(f"{RE_GEN}:2:{URL}").samplers_without_karras
    assert not TABLE.capabilities(f"{RE_GEN}:1:{URL}").samplers_without_karras


@pytest.mark.parametrize(
    ("agent", "factor"),
    [
        (f"{RE_GEN}:13", "1"),
        (f"{RE_GEN}:14.2", "1"),
        (f"{RE_GEN}:13.0.0-beta", "0.90"),
        (f"{RE_GEN}:10.0.4", "0.90"),
        ("AI Horde Worker:24", "1"),
        ("AI Horde Worker:23", "0.90"),
        ("SD-WebUI Stable Horde Worker Bridge:4", "0.75"),
        ("Somebody's Worker:99", "0.75"),
    ],
)
def test_reward_factor(agent: str, factor: str) -> None:
    assert TABLE.capabilities(f"{agent}:{URL}").reward_factor == Decimal(factor)


@pytest.mark.parametrize(
    "agent",
    [
        "",
        "AI Horde Worker",
        "AI Horde Worker:24",
        ":24:url",
        "AI Horde Worker::url",
        "AI Horde Worker:v24:url",
        "AI Horde Worker:024:url",
        "AI Horde Worker:24.:url",
        "AI Horde Worker:24\n:url",
        "AI Horde Worker:\uff12\uff14:url",
        "AI Horde Worker:1.2.3.4:url",
        "AI Horde Worker:" + "9" * 100_000 + ":url",
    ],
)
def test_agents_that_cannot_be_read(agent: str) -> None:
    software = TABLE.capabilities(agent)
    assert (software.name, software.version) == ("unknown", Version(0))
    assert not software.capabilities
    assert software.reward_factor == Decimal("0.75")


@pytest.mark.parametrize("agent", ["Somebody's Worker:99:url", "ai horde worker:24:url", "garbage"])
def test_unknown_programs_count_as_an_old_known_one_for_samplers_only(agent: str) -> None:
    software = TABLE.capabilities(agent)
    like = TABLE.capabilities(f"AI Horde Worker:23:{URL}")
    assert not software.capabilities
    assert software.samplers_with_karras == like.samplers_with_karras
    assert software.samplers_without_karras == like.samplers_without_karras


def test_names_may_hold_tildes() -> None:
    software = TABLE.capabilities("AI Horde Worker~aphrodite~oai:3:http://localhost:80")
    assert (software.name, software.version) == ("AI Horde Worker~aphrodite~oai", Version(3))


def test_our_sample_worker_claims_only_what_it_honours() -> None:
    software = TABLE.capabilities(BRIDGE_AGENT)
    assert software.capabilities == {"r2", "clip_skip", "hires_fix", "tiling"}
    assert software.samplers_with_karras == TABLE.capabilities(f"{RE_GEN}:13:{URL}").samplers_with_karras
    assert software.reward_factor == Decimal("0.75")


@given(st.text(max_size=60))
def test_any_text_is_answered(agent: str) -> None:
    assert not TABLE.capabilities(agent).capabilities


@given(st.integers(0, 30), st.integers(0, 30))
def test_newer_versions_never_lose_anything(one: int, other: int) -> None:
    older, newer = (TABLE.capabilities(f"{RE_GEN}:{version}:{URL}") for version in sorted((one, other)))
    assert older.capabilities <= newer.capabilities
    assert older.samplers_with_karras <= newer.samplers_with_karras
    assert older.reward_factor <= newer.reward_factor


HEAD = '[unknown_samplers_like]\nname = "A"\nversion = 1\n'
PROGRAM = '[[program]]\nname = "A"\nofficial = true\nlatest = "1.2"\n'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not toml",
        PROGRAM,
        HEAD,
        HEAD.replace("A", "B") + PROGRAM,
        HEAD + PROGRAM + PROGRAM,
        HEAD + PROGRAM + "[program.capabilities]\npainting = 1\n",
        HEAD + PROGRAM + "[program.capabilities]\nimg2img = true\n",
        HEAD + PROGRAM + '[program.capabilities]\nimg2img = "new"\n',
        HEAD + PROGRAM + "[program.sampler.karras]\nk_lms = 1\n",
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "software.toml"
    path.write_text(content)
    with pytest.raises(SoftwareTableError, match=r"software\.toml"):
        load_software(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SoftwareTableError, match="nowhere"):
        load_software(tmp_path / "nowhere.toml")


def test_an_operator_can_add_a_program(tmp_path: Path) -> None:
    path = tmp_path / "software.toml"
    path.write_text(SHIPPED.read_text() + PROGRAM + "[program.capabilities]\nr2 = '1.1.1'\n")
    table = load_software(path)
    assert table.capabilities("A:1.2:u").capabilities == {"r2"}
    assert not table.capabilities("A:1.1:u").capabilities
    assert table.capabilities("A:1.1:u").reward_factor == Decimal("0.90")
