"""Addresses that may not ask for a while: offenders, and what moderators keep out.

All timeouts stand in one sorted set of Valkey: the name of a block (`horde.moderation.addresses`), and the
second at which it ends. While Valkey does not answer nobody is kept out.
"""

import math
import time
from typing import cast

import orjson
import redis
import structlog
from sqlalchemy import text

from horde.moderation.addresses import (
    Network,
    is_single,
    name,
    named,
    names_of_holders,
    offender,
    read_network,
    shown,
)
from horde.moderation.rules import (
    PROXY_SUSPICION_SECONDS,
    SERVICE_SUSPICION_SECONDS,
    SUSPICION_SECONDS,
    timeout_for,
)
from horde.moderation.schemas import AddTimeoutIPInput, AffectedWorker, IPTimeout
from horde.platform.errors import BadRequest, Forbidden, HordeError, NotFound
from horde.platform.ids import new_id, parse_id
from horde.platform.runtime import Platform
from horde.users import suspicions
from horde.users.rules import Reason, Role, UserFacts
from horde.users.service import require_moderator

TIMEOUTS = "timeouts"
ANY_KEY = "timeouts:any"
KEPT_SECONDS = 2.0
TOLD_SECONDS = 4 * 24 * 3600
"""Timeouts longer than that are refused without saying how long they are."""
MANY_PROXY_OFFENCES = 10

HOUR, DAY = 3600, 24 * 3600

log = structlog.get_logger(__name__)


def timeout_seconds(platform: Platform, address: str) -> int:
    """How long `address` is kept out yet, on its own account or with a block, as of 2 seconds ago; or 0."""
    if not platform.local.get(ANY_KEY, KEPT_SECONDS, lambda: _any(platform)):
        return 0
    network = read_network(address)
    if network is None:
        return 0
    end = platform.local.get(_kept(network), KEPT_SECONDS, lambda: _end(platform, network))
    return max(0, math.ceil(end - time.time()))


def check_timeout(platform: Platform, address: str) -> None:
    """Raise `TimeoutIP` (403) when `address` is kept out at present."""
    seconds = timeout_seconds(platform, address)
    if not seconds:
        return
    when = f"in {seconds} seconds" if seconds <= TOLD_SECONDS else "much later"
    raise Forbidden(
        f"Calls from the address {address} are not accepted at present. Try again {when}, "
        "or contact the moderators if you think that this is a mistake.",
        "TimeoutIP",
    )


def report_corrupt_prompt(
    platform: Platform,
    user: UserFacts,
    address: str,
    prompt: str,
    *,
    proxy: str | None = None,
    punish: bool = True,
) -> None:
    """Note that `prompt` of `user`, who calls from `address`, was refused with `CorruptPrompt`.

    The address is kept out for 3 minutes, then for 9, 15, 21 and so on, as long as no day passes without an
    offence; the account becomes suspicious, and the prompt is put into the object store for moderators to
    look at, for as long as pictures stay there. Nothing of that happens to moderators, nor to anybody unless
    `punish`. `proxy` is the address of the service through which the call came, if any; its refused prompts
    are counted for an hour.
    """
    punished = punish and not user.has(Role.MODERATOR)
    try:
        if punished:
            _punish(platform, address)
        if proxy is not None:
            _count_proxy(platform, user, proxy)
    except redis.RedisError as error:
        log.warning("refused prompt not noted, Valkey does not answer", error=str(error))
    if punished:
        with platform.engine.begin() as db:
            suspicions.report(db, user.id, Reason.CORRUPT_PROMPT)
        _archive(platform, user, prompt)


def _archive(platform: Platform, user: UserFacts, prompt: str) -> None:
    sample = {"prompt": prompt, "user": user.alias, "type": "regex"}
    try:
        platform.store.put(f"prompt_{new_id()}.json", orjson.dumps(sample))
    except HordeError as error:
        log.warning("refused prompt not archived", error=error.message)


def _punish(platform: Platform, address: str) -> None:
    network = read_network(address)
    if network is None:
        return
    service = address in platform.settings.service_addresses
    kept = SERVICE_SUSPICION_SECONDS if service else SUSPICION_SECONDS
    culprit = offender(network)
    offences = _count(platform, _suspicion(culprit), kept)
    seconds = timeout_for(offences, service=service)
    _keep_out(platform, culprit, seconds)
    platform.local.drop(_kept(network))
    log.info("address in timeout", address=shown(culprit), offences=offences, seconds=seconds)


def _count_proxy(platform: Platform, user: UserFacts, proxy: str) -> None:
    network = read_network(proxy)
    if network is None:
        return
    offences = _count(platform, _suspicion(offender(network)), PROXY_SUSPICION_SECONDS)
    if offences > MANY_PROXY_OFFENCES + 1:
        log.warning("proxy sends many refused prompts", proxy=proxy, user=user.id, count=offences)


def _count(platform: Platform, key: str, seconds: int) -> int:
    """One more offence; all are forgotten `seconds` after the last one."""
    pipeline = platform.cache.pipeline()
    pipeline.incr(key)
    pipeline.expire(key, seconds)
    return int(pipeline.execute()[0])


def _suspicion(network: Network) -> str:
    return f"suspicion:{name(network)}"


def _kept(network: Network) -> str:
    return f"timeout:{name(network)}"


def _any(platform: Platform) -> bool:
    """Whether anybody at all is kept out; nearly always nobody is, and then no address is looked up."""
    try:
        return bool(platform.cache.exists(TIMEOUTS))
    except redis.RedisError as error:
        log.warning("everybody let in, Valkey does not answer", error=str(error))
        return False


def _end(platform: Platform, network: Network) -> float:
    """When the last timeout of `network` ends, in Unix seconds; 0 when there is none."""
    try:
        ends = platform.cache.zmscore(TIMEOUTS, names_of_holders(network))
    except redis.RedisError as error:
        log.warning("address let in, Valkey does not answer", error=str(error))
        return 0
    return max((end for end in ends if end is not None), default=0)


def _keep_out(platform: Platform, network: Network, seconds: float) -> None:
    """Keep `network` out for so long at least."""
    now = time.time()
    pipeline = platform.cache.pipeline()
    pipeline.zremrangebyscore(TIMEOUTS, "-inf", now)
    pipeline.zadd(TIMEOUTS, {name(network): now + seconds}, gt=True)
    pipeline.execute()
    platform.local.drop(ANY_KEY)


def _let_in(platform: Platform, network: Network) -> None:
    """End the timeout of `network`; that of an address with what it is held to account by."""
    ended = [network, offender(network)] if is_single(network) else [network]
    pipeline = platform.cache.pipeline()
    pipeline.zrem(TIMEOUTS, *{name(each) for each in ended})
    if is_single(network):
        pipeline.delete(_suspicion(offender(network)))
    pipeline.execute()
    platform.local.drop(_kept(network))


def _parse(given: str) -> Network:
    network = read_network(given)
    if network is None:
        raise BadRequest(f"'{given[:60]}' is no IP address, nor a block of them such as 192.0.2.0/24.")
    return network


def list_timeouts(platform: Platform, api_key: str) -> list[IPTimeout]:
    """All addresses and blocks that are kept out, those with the longest timeouts last.

    Like everything here that takes an API key, for moderators: see `require_moderator`.
    """
    require_moderator(platform, api_key)
    now = time.time()
    found = platform.cache.zrangebyscore(TIMEOUTS, now, "inf", withscores=True)
    return [_details(named(key.decode()), end, now) for key, end in cast(list[tuple[bytes, float]], found)]


def timeouts_of(platform: Platform, api_key: str, ipaddr: str) -> list[IPTimeout]:
    """The timeouts of an address: of blocks that hold it, and its own. Raises `BadRequest` (400)."""
    network = _parse(ipaddr)
    require_moderator(platform, api_key)
    now = time.time()
    names = names_of_holders(network)
    ends = platform.cache.zmscore(TIMEOUTS, names)
    return [
        _details(named(key), end, now)
        for key, end in zip(names, ends, strict=True)
        if end is not None and end > now
    ]


def _details(network: Network, end: float, now: float) -> IPTimeout:
    return IPTimeout(ipaddr=shown(network), seconds=math.ceil(end - now))


def add_timeout(platform: Platform, api_key: str, new: AddTimeoutIPInput) -> None:
    """Keep an address or a block out; a longer timeout stays as it is. Raises `BadRequest` (400)."""
    network = _parse(new.ipaddr)
    moderator = require_moderator(platform, api_key)
    _keep_out(platform, network, new.hours * HOUR)
    platform.local.drop(_kept(network))
    log.info("address kept out", address=shown(network), hours=new.hours, moderator=moderator.id)


def remove_timeout(platform: Platform, api_key: str, ipaddr: str) -> None:
    """Let a block in again, or an address, whose offences are forgotten too. Raises `BadRequest` (400)."""
    network = _parse(ipaddr)
    moderator = require_moderator(platform, api_key)
    _let_in(platform, network)
    log.info("address let in", address=shown(network), moderator=moderator.id)


_WORKER_ADDRESS = text("SELECT ipaddr FROM workers WHERE id = :id")


def _worker_network(platform: Platform, worker_id: str) -> Network:
    parsed = parse_id(worker_id)
    address = None
    if parsed is not None:
        with platform.read() as db:
            address = db.execute(_WORKER_ADDRESS, {"id": parsed}).scalar_one_or_none()
    if address is None:
        raise NotFound(f"There is no worker with id {worker_id[:60]}.", "WorkerNotFound")
    network = read_network(address)
    if network is None:
        raise BadRequest("This worker's address is not known, as it has never checked in.")
    return network


def block_worker(platform: Platform, api_key: str, worker_id: str, days: int) -> list[AffectedWorker]:
    """Keep out the address that a worker last called from, or its /64; returns all workers from there.

    Raises `WorkerNotFound` (404), and `BadRequest` (400) for a worker whose address is not known.
    """
    moderator = require_moderator(platform, api_key)
    network = _worker_network(platform, worker_id)
    _keep_out(platform, offender(network), days * DAY)
    platform.local.drop(_kept(network))
    log.info("worker kept out", worker=worker_id, days=days, moderator=moderator.id)
    return _workers_in(platform, offender(network))


_CANDIDATES = text("""
    SELECT workers.id, workers.name, workers.ipaddr, users.username || '#' || users.id AS owner,
        EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'trusted') AS trusted
    FROM workers JOIN users ON users.id = workers.owner_id
    WHERE workers.ipaddr = :address OR (:ipv6 AND workers.ipaddr LIKE '%:%')
    ORDER BY workers.created
""")


def _workers_in(platform: Platform, network: Network) -> list[AffectedWorker]:
    values = {"address": shown(network), "ipv6": network.version == 6}
    with platform.read() as db:
        rows = db.execute(_CANDIDATES, values).all()
    return [
        AffectedWorker(id=str(row.id), name=row.name, owner=row.owner, trusted=row.trusted)
        for row in rows
        if (at := read_network(row.ipaddr)) is not None and offender(at) == network
    ]


def unblock_worker(platform: Platform, api_key: str, worker_id: str) -> None:
    """Undo `block_worker`, and forget the offences of the address. Raises `WorkerNotFound` (404)."""
    moderator = require_moderator(platform, api_key)
    _let_in(platform, _worker_network(platform, worker_id))
    log.info("worker let in", worker=worker_id, moderator=moderator.id)
