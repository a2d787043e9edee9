"""What would run with each model, and what that is worth."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.image import asked, plans
from horde.image.asked import Asked
from horde.image.prices import BurnTerms
from horde.image.requirements import SAMPLERS
from horde.image.schemas import GenerationInputStable
from horde.image.upfront import Load, free_side, reasons
from horde.model_reference.schemas import ImageModel, Requirements
from kudos_model.features import accurate_steps

MODELS = {
    model.name: model
    for model in (
        ImageModel(name="plain"),
        ImageModel(name="quick", requirements=Requirements(max_steps=6, samplers=("k_dpmpp_sde",))),
        ImageModel(name="thorough", requirements=Requirements(min_steps=60)),
        ImageModel(name="large", baseline="stable_diffusion_xl", requirements=Requirements(clip_skip=2)),
        ImageModel(name="flux", baseline="flux_1", requirements=Requirements(max_cfg_scale=4.0)),
        ImageModel(name="cascade", baseline="stable_cascade"),
        ImageModel(name="two", baseline="stable diffusion 2"),
        ImageModel(name="a map", type="controlnet"),
    )
}
BUSY = Load(threads=0, queued=10_000)

some_params = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 500),
        "width": st.integers(1, 48).map(lambda count: 64 * count),
        "height": st.integers(1, 48).map(lambda count: 64 * count),
        "sampler_name": st.sampled_from(SAMPLERS),
        "cfg_scale": st.integers(0, 100),
        "n": st.integers(1, 20),
    }
)
some_models = st.lists(st.sampled_from(["plain", "quick", "large", "flux", "unheard of"]), max_size=4)


def read(params: dict[str, Any] | None = None, **fields: Any) -> Asked:
    """What a request with these parameters and fields asks for."""
    request = GenerationInputStable.model_validate({"prompt": "a fox", "params": params or {}, **fields})
    options = asked.options_of(request, policy="correct", unsafe_ip=False)
    return asked.read(asked.payload_of(request), options, r2=request.r2)


@given(some_params, some_models)
def test_a_payload_with_its_changes_is_what_the_plan_says(params: dict[str, Any], names: list[str]) -> None:
    request = GenerationInputStable.model_validate({"prompt": "a fox", "params": params, "models": names})
    options = asked.options_of(request, policy="correct", unsafe_ip=False)
    payload = asked.payload_of(request)
    base = asked.read(payload, options, r2=True)
    planned = plans.plans(base, names, MODELS)
    variants = plans.variants(base, planned)
    for plan in planned:
        stored = payload | variants.get(plan.model, {"payload": {}})["payload"]
        assert asked.read(stored, options, r2=True) == plan.asked


@given(some_params, some_models)
def test_the_dearest_model_is_quoted_and_no_more(params: dict[str, Any], names: list[str]) -> None:
    base, terms = read(params), BurnTerms(source_image=True, slow_workers=False)
    planned = plans.plans(base, names, MODELS)
    alone = [plans.quote([plan], params["n"], terms, 1) for plan in planned]
    assert plans.quote(planned, params["n"], terms, 1) == max(alone)


@given(some_params, st.integers(1, 4))
def test_more_work_never_costs_less(params: dict[str, Any], more: int) -> None:
    def cost(**values: Any) -> Any:
        base = read({**params, **values})
        return plans.quote(plans.plans(base, ["plain"], MODELS), params["n"], BurnTerms(), 1)

    assert cost(steps=min(500, params["steps"] + more)) >= cost()
    assert cost(width=min(3072, params["width"] + 64 * more)) >= cost()
    assert cost(height=min(3072, params["height"] + 64 * more)) >= cost()
    assert cost(loras=[{"name": "1"}]) > cost()
    assert cost(tis=[{"name": "1"}]) > cost()


@given(some_params, some_models, st.sampled_from([Load(0, 0), Load(3, 300), BUSY]))
def test_a_downgrade_needs_nothing_upfront_and_never_adds(
    params: dict[str, Any], names: list[str], load: Load
) -> None:
    planned = plans.plans(read(params, slow_workers=False), names, MODELS)
    reduced = plans.downgraded(planned, load)
    if reduced is None:
        assert any(plan.asked.settings.sampler == "k_dpm_adaptive" for plan in planned)
        return
    assert reasons(plans.demand(reduced), load) == []
    for before, after in zip(planned, reduced, strict=True):
        assert after.asked.size <= max(before.asked.size, 512 * 512)
        assert after.asked.settings.steps <= before.asked.settings.steps
        assert replace(after.asked.settings, steps=before.asked.settings.steps) == before.asked.settings
        assert after.things <= max(before.things, 512 * 512 * before.asked.facts.accurate_steps)
        assert after.price <= before.price


@given(some_params)
def test_what_is_free_is_not_reduced(params: dict[str, Any]) -> None:
    planned = plans.plans(read(params), ["plain"], MODELS)
    if not reasons(plans.demand(planned), BUSY):
        assert plans.downgraded(planned, BUSY) == planned


def test_a_model_is_not_run_with_fewer_steps_than_it_needs() -> None:
    planned = plans.plans(read({"steps": 30}), ["plain", "thorough"], MODELS)
    assert planned[1].asked.settings.steps == 60
    assert plans.downgraded(planned, BUSY) is None
    kept = plans.plans(read({"steps": 60}, model_requirements="warn"), ["thorough"], MODELS)
    reduced = plans.downgraded(kept, BUSY)
    assert reduced is not None
    assert reduced[0].asked.settings.steps == 40


def test_a_model_that_needs_a_slow_sampler_is_free_up_to_its_own_maximum() -> None:
    planned = plans.plans(read({"steps": 30}), ["quick"], MODELS)
    assert planned[0].asked.facts.accurate_steps == accurate_steps("k_dpmpp_sde", 6)
    assert reasons(plans.demand(planned), BUSY) == []


@pytest.mark.parametrize(
    ("field", "value", "able"),
    [
        ("hires_fix", True, {"plain", "large", "cascade", "two"}),
        ("transparent", True, {"plain", "large"}),
        ("workflow", "qr_code", {"plain", "large"}),
        ("control_type", "canny", {"plain", "two"}),
        ("control_type", "hough", {"plain"}),
    ],
)
def test_which_models_can_do_what(field: str, value: Any, able: set[str]) -> None:
    wanted = read({field: value})
    names = {"plain", "large", "flux", "cascade", "two", "a map"}
    assert {name for name in names if plans.supports(name, wanted, MODELS)} == able


def test_only_cascade_remixes() -> None:
    wanted = read(source_processing="remix", source_image="x")
    assert {name for name in MODELS if plans.supports(name, wanted, MODELS)} == {"cascade"}


def test_the_free_size_follows_the_models() -> None:
    wide = read({"width": 1024, "height": 1024})
    assert plans.downgraded(plans.plans(wide, ["plain"], MODELS), BUSY) is not None
    side = free_side(BUSY, ["stable diffusion 1"])
    (small,) = plans.downgraded(plans.plans(wide, ["plain"], MODELS), BUSY) or []
    assert small.asked.size <= side * side
    (same,) = plans.downgraded(plans.plans(wide, ["large"], MODELS), BUSY) or []
    assert same.asked.size == 1024 * 1024
