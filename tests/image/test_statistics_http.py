"""What is kept for statistics of each job that has ended, and what is not."""

from typing import Any

import pytest

from horde.generation import sweep
from horde.users.rules import Role
from tests.support import AGENT, MODEL, PICTURE, SDXL, Account, Horde, change, scalar

USUAL = {
    "width": 512,
    "height": 512,
    "steps": 30,
    "cfg_scale": 5.0,
    "sampler": "k_euler_a",
    "karras": True,
    "hires_fix": False,
    "tiling": False,
    "prompt_length": len("a lighthouse at dawn"),
    "negative_prompt": False,
    "img2img": False,
    "nsfw": True,
    "loras": [],
    "tis": [],
}
"""Of a request that says nothing."""


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, Role.CUSTOMIZER, username="Owner")


@pytest.fixture
def payer(horde: Horde) -> Account:
    return horde.account(amount=10_000, username="Payer")


def record(horde: Horde) -> Any:
    """The one row that is kept."""
    with horde.platform.read() as db:
        return db.exec_driver_sql("SELECT * FROM generation_records").one()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"nsfw": False}, {"nsfw": False}),
        ({"prompt": "secret words ### ugly"}, {"prompt_length": 21, "negative_prompt": True}),
        ({"source_image": PICTURE}, {"img2img": True}),
        (
            {"params": {"width": 768, "height": 640, "steps": 12, "cfg_scale": 7.5, "karras": False}},
            {"width": 768, "height": 640, "steps": 12, "cfg_scale": 7.5, "karras": False},
        ),
        (
            {"params": {"sampler_name": "k_dpmpp_2m", "hires_fix": True, "tiling": True}},
            {"sampler": "k_dpmpp_2m", "hires_fix": True, "tiling": True},
        ),
        (
            {"params": {"post_processing": ["GFPGAN", "RealESRGAN_x4plus"]}},
            {"post_processing": ["GFPGAN", "RealESRGAN_x4plus"]},
        ),
        (
            {"params": {"loras": [{"name": "77"}], "tis": [{"name": "88"}]}},
            {"loras": ["77"], "tis": ["88"]},
        ),
        (
            {"source_image": PICTURE, "params": {"control_type": "canny", "steps": 20}},
            {"img2img": True, "control_type": "canny", "steps": 20},
        ),
    ],
    ids=str,
)
def test_what_was_asked_for(
    horde: Horde, owner: Account, payer: Account, fields: dict[str, Any], told: dict[str, Any]
) -> None:
    horde.asked(payer, agent="a client:1:x", **fields)
    job = horde.popped(owner, allow_lora=True, allow_controlnet=True)["id"]
    reward = horde.submitted(owner, job)
    row = record(horde)
    assert row.details == USUAL | told
    assert (str(row.id), row.kind, row.state, row.model, row.batch) == (job, "image", "ok", MODEL, 1)
    assert (row.client_agent, row.bridge_agent, float(row.kudos)) == ("a client:1:x", AGENT, reward)
    assert "secret" not in str(row)


@pytest.mark.parametrize("models", [[SDXL], []])
def test_the_settings_that_the_model_got(
    horde: Horde, owner: Account, payer: Account, models: list[str]
) -> None:
    """Whether the request names the model or leaves the choice to the worker."""
    model = next(iter(models), "Flux.1-Schnell fp8 (Compact)")
    horde.asked(payer, models=models, params={"steps": 50, "cfg_scale": 9, "width": 1024, "height": 1024})
    sent = horde.popped(owner, models=[model])
    horde.submitted(owner, sent["id"])
    details = record(horde).details
    payload = sent["payload"]
    assert details["steps"] == payload["ddim_steps"]
    assert (details["cfg_scale"], details["sampler"]) == (payload["cfg_scale"], payload["sampler_name"])


def test_how_many_were_made_at_once(horde: Horde, owner: Account, payer: Account) -> None:
    horde.asked(payer, params={"n": 3})
    ids = horde.popped(owner, amount=2)["ids"]
    horde.submitted(owner, ids[0])
    assert record(horde).batch == 2


@pytest.mark.parametrize("state", ["censored", "csam", "faulted"])
def test_how_it_ended(horde: Horde, owner: Account, payer: Account, state: str) -> None:
    horde.asked(payer)
    horde.submitted(owner, horde.popped(owner)["id"], state=state)
    row = record(horde)
    assert (row.state, row.details) == (state, USUAL)
    assert (row.kudos == 0) == (state == "faulted")


def test_an_overdue_job(horde: Horde, owner: Account, payer: Account) -> None:
    horde.asked(payer)
    job = horde.popped(owner)["id"]
    change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
    sweep.abort_overdue_jobs(horde.platform)
    assert (str(record(horde).id), record(horde).state, record(horde).model) == (job, "aborted", MODEL)


@pytest.mark.parametrize("state", ["ok", "faulted", "overdue"])
def test_special_models_are_not_named(horde: Horde, owner: Account, payer: Account, state: str) -> None:
    horde.asked(payer)
    job = horde.popped(owner)["id"]
    change(
        horde.platform,
        "UPDATE jobs SET model = 'horde_special', deadline = now() - interval '1 second'",
    )
    if state == "overdue":
        sweep.abort_overdue_jobs(horde.platform)
    else:
        horde.submitted(owner, job, state=state)
    assert record(horde).model == ""
    assert sweep.fold_records(horde.platform) == 1
    assert scalar(horde.platform, "SELECT fulfilments + uncompleted_jobs FROM workers") == 1


@pytest.mark.parametrize("again", [{}, {"state": "faulted"}, {"state": "csam"}], ids=str)
def test_what_is_refused_leaves_nothing(
    horde: Horde, owner: Account, payer: Account, again: dict[str, Any]
) -> None:
    horde.asked(payer)
    job = horde.popped(owner)["id"]
    horde.submit(owner, job, generation="no picture")
    horde.submitted(owner, job)
    horde.submit(owner, job, **again)
    assert record(horde).state == "ok"


def test_nor_does_a_late_result(horde: Horde, owner: Account, payer: Account) -> None:
    horde.asked(payer)
    job = horde.popped(owner)["id"]
    horde.submitted(owner, job, state="faulted")
    horde.submit(owner, job)
    horde.submit(owner, job, state="faulted")
    assert record(horde).state == "faulted"


def test_who_gives_and_who_gets_count_as_active(horde: Horde, owner: Account, payer: Account) -> None:
    change(horde.platform, "UPDATE users SET last_active = now() - interval '1 day'")
    horde.asked(payer)
    horde.submitted(owner, horde.popped(owner)["id"])
    sweep.fold_records(horde.platform)
    query = "SELECT array_agg(id ORDER BY id) FROM users WHERE last_active > now() - interval '1 hour'"
    assert scalar(horde.platform, query) == [owner.id, payer.id]
