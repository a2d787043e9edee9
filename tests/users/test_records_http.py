"""What an account has asked for and done so far."""

from horde.generation import sweep
from tests.support import Horde, change


def test_requests_and_results_are_counted(horde: Horde) -> None:
    """A request counts once for itself, as soon as it is accepted, and once for each of its results."""
    payer, owner = horde.account(amount=500), horde.account(username="Owner")
    horde.asked(payer, params={"n": 3})
    horde.asked(payer)
    assert horde.call("GET", f"/users/{payer.id}").json["records"]["request"]["image"] == 2
    for job in horde.popped(owner, amount=2)["ids"]:
        change(horde.platform, "UPDATE jobs SET started = now() - interval '1 minute'")
        horde.submitted(owner, job)
    sweep.fold_records(horde.platform)
    assert horde.call("GET", f"/users/{payer.id}").json["records"]["request"]["image"] == 4
    change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
    change(horde.platform, "UPDATE jobs SET finished = now() - interval '1 hour'")
    assert [sweep.expire_requests(horde.platform) for _ in range(2)] == [2, 0]
    asked = horde.call("GET", f"/users/{payer.id}").json["records"]
    assert asked["request"] == {"image": 4, "text": 0, "interrogation": 0}
    assert asked["usage"]["megapixelsteps"] > 0
    assert asked["fulfillment"]["image"] == 0
    done = horde.call("GET", f"/users/{owner.id}").json["records"]
    assert (done["request"]["image"], done["fulfillment"]["image"]) == (0, 2)
    assert done["contribution"]["megapixelsteps"] == asked["usage"]["megapixelsteps"]
