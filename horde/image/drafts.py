"""A request on its way into the queue."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any
from uuid import UUID

from horde.generation.rules import LaneKey, rank
from horde.generation.schemas import ModelRequirements
from horde.image import asked, plans, prices, undecided, upfront
from horde.image.admission import Admitted, Sender
from horde.image.asked import Asked
from horde.image.plans import KIND, Plan
from horde.kudos.rules import Entry, kudos
from horde.model_reference.schemas import ImageModel
from horde.platform.errors import BadRequest
from horde.platform.ids import new_id
from horde.users.rules import Role


@dataclass(frozen=True)
class Draft:
    """What will be queued for an admitted request, what it will cost, and what its sender should know."""

    id: UUID
    admitted: Admitted
    payload: dict[str, Any]
    options: dict[str, Any]
    base: Asked
    """What is asked for as long as no model has its say."""
    plans: list[Plan]
    dear_workers: bool
    """Whether it needs kudos upfront for the workers that it names, whatever it is reduced to."""

    @cached_property
    def terms(self) -> prices.BurnTerms:
        """What raises its price."""
        return asked.terms_of(self.payload, self.options)

    @cached_property
    def tax(self) -> Decimal:
        """Kudos that it costs once it is queued."""
        extra = len(self.options["extra_sources"])
        return prices.activation_tax(extra, foreign_style=self.admitted.foreign_style)

    @cached_property
    def credits(self) -> list[Entry]:
        """Who gets something of that."""
        style = self.admitted.style
        if style is None or style.owner_account is None or not self.admitted.foreign_style:
            return []
        return [Entry(style.owner_account, kudos(prices.STYLE_TAX), "styled")]

    @cached_property
    def cost(self) -> Decimal:
        """Kudos that it will cost in all."""
        return plans.quote(self.plans, self.admitted.request.params.n, self.terms, self.tax)

    @cached_property
    def lanes(self) -> list[LaneKey]:
        """Where it will stand."""
        targets = [] if self.options["worker_blacklist"] else self.admitted.wanted
        return plans.lanes(self.plans, targets)

    @property
    def warnings(self) -> list[dict[str, str]]:
        """The settings that did not fit a model."""
        return [
            {"code": mismatch.code, "message": mismatch.warning(plan.model, plan.asked.policy)}
            for plan in self.plans
            for mismatch in plan.mismatches
        ]

    def downgraded(self, load: upfront.Load) -> "Draft | None":
        """The same, reduced until it needs no kudos upfront; None if it cannot be."""
        reduced = None if self.dear_workers else plans.downgraded(self.plans, load)
        if reduced is None:
            return None
        features = reduced[0].asked.features
        steps = max(plan.asked.settings.steps for plan in reduced)
        size = {"width": features.width, "height": features.height}
        base = self.base.resized(**size)
        return replace(
            self,
            payload={**self.payload, **size, "ddim_steps": steps},
            options={**self.options, "slow_workers": True},
            base=base.with_settings(replace(base.settings, steps=steps)),
            plans=reduced,
        )

    def row(self, sender: Sender, *, lifetime: int, reserved: bool, priority: Decimal) -> dict[str, Any]:
        """What `queue.enqueue` takes. `lifetime` is in seconds, `priority` in kudos."""
        request, user = self.admitted.request, self.admitted.user
        each = max(prices.charge(plan.value, self.terms) for plan in self.plans)
        options = {**self.options, "reserved": reserved, "kudos": str(each)}
        if not request.models:
            options["undecided"] = undecided.write(self.base)
        if variants := plans.variants(self.base, self.plans):
            options["variants"] = variants
        return {
            "id": self.id,
            "kind": KIND,
            "user_id": user.id,
            "account_id": user.balance_account,
            "lifetime": lifetime,
            "jobs": request.params.n,
            "rank": rank(priority, time.time()),
            "models": list(dict.fromkeys(request.models)),
            "workers": self.admitted.wanted,
            "worker_blacklist": request.worker_blacklist,
            "prompt": request.prompt,
            "payload": self.payload,
            "options": options,
            "things": max(plan.things for plan in self.plans),
            "size": self.base.size,
            "ttl": plans.job_seconds(self.plans),
            "price": self.base.price,
            "tax": self.tax,
            "r2": request.r2,
            "client_agent": sender.client_agent,
            "ipaddr": sender.address,
            "proxied_account": request.proxied_account,
        }


def draft(
    admitted: Admitted,
    models: Mapping[str, ImageModel],
    policy: ModelRequirements,
    *,
    upfront_for_workers: bool = False,
    flat_for_workers: bool = False,
) -> Draft:
    """What becomes of an admitted request where models get their way.

    The operator decides on the `policy` and on what naming workers means: that kudos are needed upfront, or
    that the work has a flat price. Raises `BadRequest` (400), with the code of the first mismatch, for
    settings that do not fit a model if they are to be refused.
    """
    request = admitted.request
    payload = asked.payload_of(request)
    options = asked.options_of(
        request,
        policy=policy,
        unsafe_ip=admitted.unsafe_ip,
        trusted=admitted.user.trusted,
        supervised=admitted.user.has(Role.EDUCATION),
        flat_price=flat_for_workers and bool(admitted.wanted),
    )
    wanted = asked.read(payload, options, r2=request.r2)
    planned = plans.plans(wanted, request.models, models)
    if wanted.policy == "reject":
        _refuse_mismatches(planned)
    dear_workers = upfront_for_workers and bool(admitted.wanted)
    return Draft(new_id(), admitted, payload, options, wanted, planned, dear_workers)


def _refuse_mismatches(planned: list[Plan]) -> None:
    found = [(plan.model, mismatch) for plan in planned for mismatch in plan.mismatches]
    if found:
        reasons = "; ".join(mismatch.reason(model) for model, mismatch in found)
        raise BadRequest(f"{reasons}. Change this, or set model_requirements to correct.", found[0][1].code)
