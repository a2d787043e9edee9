"""Which worker gets which request, as the specification says it: slow, obvious, and without our code.

Workers and requests are dictionaries of the fields of the API, with a few facts that it does not send.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Reasons = frozenset[str]

REGEN, WORKER, WEBUI, AUTO = (
    "AI Horde Worker reGen",
    "AI Horde Worker",
    "SD-WebUI Stable Horde Worker Bridge",
    "HordeAutoWebBridge",
)
COLUMNS = (REGEN, WORKER, WEBUI, AUTO)
NEW_POST_PROCESSORS = [
    "4xNomos8kSC",
    "4xLSDIRplus",
    "4xNomosWebPhoto_RealPLKSR",
    "4xNomos2_realplksr_dysample",
    "4xNomos2_hq_dat2",
    "2xModernSpanimationV1",
    "GFPGANv1.3",
    "RestoreFormer",
]
CAPABILITIES: dict[str, tuple[int | None, ...]] = {
    "img2img": (1, 3, None, 1),
    "inpainting": (1, 4, 1, 1),
    "r2": (1, 8, 1, None),
    "clip_skip": (1, 13, 4, None),
    "hires_fix": (1, 13, None, None),
    "tiling": (1, None, 2, 2),
    "controlnet": (1, 15, None, None),
    "return_control_map": (1, 18, None, None),
    "image_is_control": (1, 23, None, None),
    "lora": (2, 22, None, None),
    "textual_inversion": (2, 24, None, None),
    "lora_versions": (3, None, None, None),
    "extra_source_images": (5, None, None, None),
    "stable_cascade_2pass": (6, None, None, None),
    "qr_code": (7, None, None, None),
    "layer_diffuse": (8, None, None, None),
    "flux": (9, None, None, None),
    "post-processing": (1, 7, None, None),
    "GFPGAN": (1, 7, None, None),
    "RealESRGAN_x4plus": (1, 7, None, None),
    "CodeFormers": (1, 9, 1, None),
    "strip_background": (1, 18, None, None),
    "RealESRGAN_x4plus_anime_6B": (1, 18, None, None),
    "NMKD_Siax": (1, 19, None, None),
    "4x_AnimeSharp": (1, 19, None, None),
    "RealESRGAN_x2plus": (1, 21, None, None),
    **dict.fromkeys(NEW_POST_PROCESSORS, (13, None, None, None)),
}
"""Least version of each program."""
_K, _N = True, False
_MOST, _SOME = ((2, _K), (11, _K), (1, _K), (1, _K)), ((2, _K), (11, _K), (1, _K), (1, _N))
SAMPLERS: dict[str, tuple[tuple[int, bool] | None, ...]] = {
    **dict.fromkeys(("k_lms", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_2m"), _MOST),
    **dict.fromkeys(("k_heun", "k_euler", "k_euler_a", "k_dpm_fast", "k_dpm_adaptive"), _SOME),
    "k_dpmpp_sde": ((2, _K), (12, _K), (1, _K), None),
    "dpmsolver": ((2, _K), (11, _K), None, (1, _K)),
    "DDIM": ((2, _K), (17, _N), (1, _N), None),
    "lcm": ((3, _K), None, None, None),
}
"""Least version of each program, and whether karras is possible with it."""
TWICE_A_STEP = ("k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde")

SD1, SD2, XL, CASCADE, FLUX = (
    "stable diffusion 1",
    "stable diffusion 2",
    "stable_diffusion_xl",
    "stable_cascade",
    "flux_1",
)
TAGS = {"[SDXL]": XL, "[Flux]": FLUX, "[Qwen]": "qwen_image", "[ZImage]": "z_image_turbo"}


@dataclass(frozen=True)
class Model:
    """A model of the reference."""

    baseline: str = SD1
    inpainting: bool = False
    needs_picture: bool = False
    requirements: Mapping[str, Any] = field(default_factory=dict)


def model_of(name: str, models: Mapping[str, Model]) -> Model:
    """A model by name; one that the reference lacks is what a tag in its name says."""
    if name in models:
        return models[name]
    return Model(next((baseline for tag, baseline in TAGS.items() if tag in name), SD1))


@dataclass
class Reference:
    """The rules, with the models that are known."""

    models: Mapping[str, Model]
    matched: bool = False
    """Whether workers that are asked for serve only their owners and those whom they name."""

    def can(self, worker: Mapping[str, Any], capability: str) -> bool:
        program, version = agent(worker)
        least = CAPABILITIES[capability][COLUMNS.index(program)] if program in COLUMNS else None
        return least is not None and version >= least

    def can_sample(self, worker: Mapping[str, Any], sampler: str, karras: bool) -> bool:
        program, version = agent(worker)
        if program not in COLUMNS:
            program, version = WORKER, 23
        entry = SAMPLERS[sampler][COLUMNS.index(program)]
        return entry is not None and version >= entry[0] and (entry[1] or not karras)

    def hosts(self, worker: Mapping[str, Any]) -> list[Model]:
        return [model_of(name, self.models) for name in worker["models"]]

    def settings(self, request: Mapping[str, Any], name: str) -> tuple[dict[str, Any], bool]:
        """What would run with a model, and whether its requirements were met as it was asked for."""
        params = request["params"]
        asked = {key: params[key] for key in ("steps", "sampler_name", "karras")}
        asked["clip_skip"] = params.get("clip_skip", 1)
        if params.get("control_type"):
            asked["steps"] = min(asked["steps"], 40)
        needs = model_of(name, self.models).requirements
        fitting = dict(asked)
        if "clip_skip" in needs:
            fitting["clip_skip"] = needs["clip_skip"]
        fitting["steps"] = max(needs.get("min_steps", 1), min(asked["steps"], needs.get("max_steps", 500)))
        if "samplers" in needs and asked["sampler_name"] not in needs["samplers"]:
            (fitting["sampler_name"],) = needs["samplers"]
        return (fitting if request["model_requirements"] == "correct" else asked), fitting == asked

    def fits(self, request: Mapping[str, Any], name: str) -> bool:
        """Whether a request that accepts every model could have named this one."""
        model, params = model_of(name, self.models), request["params"]
        kind = model.baseline
        hires = kind.startswith((SD1, SD2)) or kind in (XL, CASCADE)
        control = params.get("control_type")
        works = kind == SD1 or (kind.startswith(SD2) and control not in ("normal", "hough"))
        _, met = self.settings(request, name)
        return (
            "horde_special" not in name
            and (hires or not params.get("hires_fix"))
            and (kind in (SD1, XL) or not params.get("transparent"))
            and (kind in (SD1, XL) or params.get("workflow") != "qr_code")
            and (kind == CASCADE or request["source_processing"] != "remix")
            and (works or not control)
            and (bool(request.get("source_image")) or not model.needs_picture)
            and (met or request["model_requirements"] != "reject")
        )

    def always(self, worker: Mapping[str, Any], request: Mapping[str, Any]) -> Reasons:
        """What stands in the way whatever model is used."""
        params = request["params"]
        reasons = set()
        picture = bool(request.get("source_image"))
        painting = request["source_processing"] in ("inpainting", "outpainting")
        if request["nsfw"] and not worker["nsfw"]:
            reasons.add("nsfw")
        if request["trusted_workers"] and not worker["trusted"]:
            reasons.add("untrusted")
        if request["unsafe_ip"] and not request["sender_trusted"] and not worker["trusted"]:
            reasons.add("untrusted")
        if request["unsafe_ip"] and not worker["allow_unsafe_ipaddr"]:
            reasons.add("unsafe_ip")
        if not request["slow_workers"] and worker["speed"] < 500_000:
            reasons.add("performance")
        if not request["extra_slow_workers"] and worker["extra_slow_worker"]:
            reasons.add("performance")
        if painting and not any(model.inpainting for model in self.hosts(worker)):
            reasons.add("models")
        if not painting and all(model.inpainting for model in self.hosts(worker)):
            reasons.add("models")
        loras = params.get("loras") or []
        post_processors = params.get("post_processing") or []
        control = params.get("control_type")
        qr_code = params.get("workflow") == "qr_code"
        for wanted, setting, reason, capabilities in (
            (picture, "allow_img2img", "img2img", ["img2img"]),
            (painting, "allow_painting", "painting", ["inpainting"]),
            (loras, "allow_lora", "lora", ["lora"]),
            (any(lora.get("is_version") for lora in loras), "allow_lora", "lora", ["lora_versions"]),
            (
                post_processors,
                "allow_post_processing",
                "post-processing",
                ["post-processing", *post_processors],
            ),
            (control, "allow_controlnet", "controlnet", ["controlnet"]),
            (
                control and params.get("image_is_control"),
                "allow_controlnet",
                "controlnet",
                ["image_is_control"],
            ),
        ):
            if wanted and not worker[setting]:
                reasons.add(reason)
            elif wanted and not all(self.can(worker, capability) for capability in capabilities):
                reasons.add("bridge_version")
        for wanted, capability in (
            (request["r2"], "r2"),
            (request.get("extra_source_images"), "extra_source_images"),
            (params.get("tis"), "textual_inversion"),
            (params.get("return_control_map"), "return_control_map"),
            (params.get("tiling"), "tiling"),
            (params.get("hires_fix"), "hires_fix"),
            (params.get("transparent"), "layer_diffuse"),
            (qr_code, "qr_code"),
            (qr_code, "controlnet"),
        ):
            if wanted and not self.can(worker, capability):
                reasons.add("bridge_version")
        if params.get("transparent") and not worker["allow_sdxl_controlnet"]:
            reasons.add("controlnet")
        return frozenset(reasons)

    def of_settings(self, worker: Mapping[str, Any], settings: Mapping[str, Any]) -> Reasons:
        if not self.can_sample(worker, settings["sampler_name"], settings["karras"]):
            return frozenset({"bridge_version"})
        if settings["clip_skip"] > 1 and not self.can(worker, "clip_skip"):
            return frozenset({"bridge_version"})
        return frozenset()

    def with_model(self, worker: Mapping[str, Any], request: Mapping[str, Any], name: str) -> Reasons:
        """What stands in the way if this model is used."""
        settings, _ = self.settings(request, name)
        model = model_of(name, self.models)
        params, needs = request["params"], model.requirements
        reasons = set(self.always(worker, request) | self.of_settings(worker, settings))
        steps = settings["steps"] * (2 if settings["sampler_name"] in TWICE_A_STEP else 1)
        if settings["sampler_name"] == "k_dpm_adaptive":
            steps = 40
        usual = (needs.get("min_steps", 20) + needs.get("max_steps", 40)) / 2
        if worker["limit_max_steps"] and steps > usual:
            reasons.add("step_count")
        picture = bool(request.get("source_image"))
        if model.inpainting and not picture and request["source_processing"] in ("img2img", "remix"):
            reasons.add("models")
        qr_code, hires_fix = params.get("workflow") == "qr_code", params.get("hires_fix")
        if qr_code and model.baseline == XL and not worker["allow_sdxl_controlnet"]:
            reasons.add("controlnet")
        if hires_fix and model.baseline == CASCADE and not self.can(worker, "stable_cascade_2pass"):
            reasons.add("bridge_version")
        if model.baseline == FLUX and not self.can(worker, "flux"):
            reasons.add("bridge_version")
        return frozenset(reasons)

    def ways(self, worker: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Reasons]:
        """For each model that this worker could use for this request, what stands in the way."""
        if request["models"]:
            names = [name for name in request["models"] if name in worker["models"]]
            return {name: self.with_model(worker, request, name) for name in names}
        settings, _ = self.settings({**request, "model_requirements": "warn"}, "")
        base = self.always(worker, request) | self.of_settings(worker, settings)
        return {
            name: base | self.with_model(worker, request, name)
            for name in sorted(worker["models"])
            if self.fits(request, name)
        }

    def suited(self, worker: Mapping[str, Any], request: Mapping[str, Any]) -> set[str]:
        """The models with which this worker could serve this request, as far as models matter."""
        return {name for name, reasons in self.ways(worker, request).items() if not reasons}

    def reasons(self, worker: Mapping[str, Any], request: Mapping[str, Any]) -> Reasons:
        """Why this worker cannot serve this request, as far as neither words nor kudos matter."""
        found = self.ways(worker, request)
        reasons: Reasons = frozenset()
        if found:
            reasons = min(found.values(), key=len)
        elif request["models"]:
            own = [self.with_model(worker, request, name) for name in request["models"]]
            reasons = min(own, key=len) | {"models"}
        else:
            settings, _ = self.settings({**request, "model_requirements": "warn"}, "")
            reasons = self.always(worker, request) | self.of_settings(worker, settings) | {"models"}
        if request["workers"] and (worker["id"] in request["workers"]) == request["worker_blacklist"]:
            reasons |= {"worker_id"}
        stranger = request["sender"] not in (worker["owner"], *worker["friends"])
        if self.matched and request["workers"] and not request["worker_blacklist"] and stranger:
            reasons |= {"worker_id"}
        if request["params"]["width"] * request["params"]["height"] > worker["max_pixels"]:
            reasons |= {"max_pixels"}
        return reasons

    def refuses_words(self, worker: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
        return any(word.lower() in request["prompt"].lower() for word in worker["blacklist"] if word)

    def unpaid(self, worker: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
        return (
            worker["require_upfront_kudos"]
            and not request["sender_trusted"]
            and request["sender"] not in (worker["owner"], *worker["friends"])
            and not request["can_pay"]
        )

    def first(
        self, worker: Mapping[str, Any], waiting: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any] | None:
        """What this worker gets of `waiting`, which is in order."""
        mine = [
            request
            for request in waiting
            if not self.reasons(worker, request)
            and not self.refuses_words(worker, request)
            and not self.unpaid(worker, request)
            and (not worker["maintenance"] or request["sender"] == worker["owner"])
        ]
        first = [request for request in mine if request["sender"] in (worker["owner"], *worker["friends"])]
        return (first or mine or [None])[0]

    def skipped(self, worker: Mapping[str, Any], waiting: Iterable[Mapping[str, Any]]) -> Counter[str]:
        """How many of `waiting` each reason keeps from this worker."""
        counts: Counter[str] = Counter()
        for request in waiting:
            reasons = self.reasons(worker, request)
            counts.update(reasons)
            if not request["models"]:
                # Its prompt and its sender are looked at before a model is chosen.
                settings, _ = self.settings({**request, "model_requirements": "warn"}, "")
                base = self.always(worker, request) | self.of_settings(worker, settings)
                reasons = base | (reasons & {"worker_id", "max_pixels"})
            if not reasons:
                counts["blacklist"] += self.refuses_words(worker, request)
                counts["kudos"] += self.unpaid(worker, request)
        return +counts


def agent(worker: Mapping[str, Any]) -> tuple[str, int]:
    """The worker's program and its version."""
    program, version, _ = worker["bridge_agent"].split(":", 2)
    return (program, int(version)) if version.isdigit() else ("unknown", 0)
