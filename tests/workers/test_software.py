from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.generation.post_processors import POST_PROCESSORS
from horde.image.schemas import Sampler
from horde.sample_worker import BRIDGE_AGENT
from horde.settings import ROOT
from horde.workers.software import CAPABILITIES, SoftwareTableError, Version, load_software

SHIPPED = ROOT / "config" / "worker_software.toml"
TABLE = load_software(SHIPPED)
URL = "https://example.org/worker:8080"
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


RE_GEN, WORKER, SD_WEBUI, AUTO = (
    "AI Horde Worker reGen",
    "AI Horde Worker",
    "SD-WebUI Stable Horde Worker Bridge",
    "HordeAutoWebBridge",
)
LATEST = {RE_GEN: 13, WORKER: 24, SD_WEBUI: 4, AUTO: 2}
MINIMUMS = """
img2img                                                      1  3  -  1
inpainting                                                   1  4  1  1
r2                                                           1  8  1  -
r2_source                                                    1 14  3  -
clip_skip                                                    1 13  4  -
hires_fix                                                    1 13  -  -
tiling                                                       1  -  2  2
controlnet                                                   1 15  -  -
return_control_map                                           1 18  -  -
image_is_control                                             1 23  -  -
lora                                                         2 22  -  -
textual_inversion                                            2 24  -  -
lora_versions                                                3  -  -  -
extra_source_images                                          5  -  -  -
stable_cascade_2pass                                         6  -  -  -
qr_code extra_texts workflow                                 7  -  -  -
layer_diffuse                                                8  -  -  -
flux                                                         9  -  -  -
post-processing                                              1  7  -  -
GFPGAN RealESRGAN_x4plus                                     1  7  -  -
CodeFormers                                                  1  9  1  -
strip_background RealESRGAN_x4plus_anime_6B                  1 18  -  -
NMKD_Siax 4x_AnimeSharp                                      1 19  -  -
RealESRGAN_x2plus                                            1 21  -  -
4xNomos8kSC 4xLSDIRplus 4xNomosWebPhoto_RealPLKSR           13  -  -  -
4xNomos2_realplksr_dysample 4xNomos2_hq_dat2                13  -  -  -
2xModernSpanimationV1 GFPGANv1.3 RestoreFormer              13  -  -  -
"""
"""The minimum version of each of the four programs for each capability. Karras noise is told by samplers, and
what `HordeAutoWebBridge` once called "painting" is inpainting."""
SAMPLERS = """
k_lms k_dpm_2 k_dpm_2_a k_dpmpp_2s_a k_dpmpp_2m            K2 K11  K1  K1
k_heun k_euler k_euler_a k_dpm_fast k_dpm_adaptive         K2 K11  K1  N1
k_dpmpp_sde                                                K2 K12  K1   -
dpmsolver                                                  K2 K11   -  K1
DDIM                                                       K2 N17  N1   -
plms                                                        -   -  N1   -
lcm                                                        K3   -   -   -
"""
"""K: with and without Karras noise, N: only without."""


def rows(table: str) -> list[tuple[str, str, str]]:
    """Program, capability or sampler, and what the table says of them."""
    found = []
    for line in table.strip().splitlines():
        *names, first, second, third, fourth = line.split()
        for program, minimum in zip(LATEST, (first, second, third, fourth), strict=True):
            found += [(program, name, minimum) for name in names]
    return found


def around(minimum: int) -> dict[str, bool]:
    """Versions, and whether they are at least `minimum`."""
    return {
        str(minimum - 1): False,
        f"{minimum - 1}.99.99": False,
        f"{minimum}.0.0-rc.1": False,
        str(minimum): True,
        f"{minimum}.0.1": True,
        "999": True,
    }


@pytest.mark.parametrize(("program", "capability", "minimum"), rows(MINIMUMS))
def test_every_capability_of_every_program(program: str, capability: str, minimum: str) -> None:
    if minimum == "-":
        assert capability not in capabilities(f"{program}:999")
        return
    for version, has in around(int(minimum)).items():
        assert (capability in capabilities(f"{program}:{version}")) == has


def test_no_capability_is_missing_from_that_list() -> None:
    assert {capability for _, capability, _ in rows(MINIMUMS)} == CAPABILITIES


@pytest.mark.parametrize(("program", "sampler", "minimum"), rows(SAMPLERS))
def test_every_sampler_of_every_program(program: str, sampler: str, minimum: str) -> None:
    kind, number = minimum[0], minimum[1:]
    versions = {"999": False} if kind == "-" else around(int(number))
    for version, has in versions.items():
        software = TABLE.capabilities(f"{program}:{version}:{URL}")
        assert (sampler in software.samplers_without_karras) == has
        assert (sampler in software.samplers_with_karras) == (has and kind == "K")


def test_no_sampler_is_missing_from_that_list() -> None:
    listed = {sampler for _, sampler, _ in rows(SAMPLERS)}
    for program in LATEST:
        assert TABLE.capabilities(f"{program}:999:{URL}").samplers_without_karras <= listed
    assert set(get_args(Sampler)) <= listed


@pytest.mark.parametrize("program", LATEST)
def test_what_its_latest_version_earns(program: str) -> None:
    official = program in (RE_GEN, WORKER)
    for version, latest in around(LATEST[program]).items():
        factor = TABLE.capabilities(f"{program}:{version}:{URL}").reward_factor
        expected = ("1" if latest else "0.9") if official else "0.75"
        assert factor == Decimal(expected)


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
