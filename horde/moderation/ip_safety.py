"""Whether calls from an address are to be trusted: an outside service tells which hide behind a VPN."""

from urllib.parse import quote

import redis
import structlog

from horde.moderation.addresses import Network, name, offender, read_network
from horde.moderation.modes import modes
from horde.platform import outbound
from horde.platform.errors import Forbidden
from horde.platform.outbound import OutboundError
from horde.platform.runtime import Platform
from horde.users.rules import Role, UserFacts

SAFE_BELOW = 0.93
"""Probability of a VPN from which on an address is unsafe."""
CHECK_SECONDS = 2.0
VERDICT_SECONDS = 6 * 3600
KEPT_SECONDS = 10.0
MOST_BYTES = 100

log = structlog.get_logger(__name__)


def is_safe(platform: Platform, address: str) -> bool | None:
    """Whether `address` is safe, as the operator's checker says; None when it cannot tell now.

    Every address is safe while no checker is set or Valkey does not answer, and so are the networks that the
    operator names. A checker that answers with an error other than 429, or with no probability, is broken
    and locks nobody out. Verdicts hold for 6 hours, for IPv6 for all addresses of a /64.
    """
    checker = platform.settings.ip_checker_url
    if checker is None:
        return True
    network = read_network(address)
    if network is None:
        return None
    if any(network.network_address in safe for safe in platform.settings.ip_safe_networks):
        return True
    key = f"ip_safety:{name(offender(network))}"
    return platform.local.get(key, KEPT_SECONDS, lambda: _verdict(platform, checker, network, key))


def check_raid(platform: Platform, user: UserFacts, address: str) -> bool:
    """Whether a request of `user` from `address` counts as safe.

    Outside raid mode everybody's does, and in it those of trusted accounts and of supporters, and from
    addresses that the checker cannot judge now. Raises `UntrustedUnsafeIP` (403) for unsafe ones.
    """
    if user.trusted or user.supporter:
        return True
    if modes(platform).raid and is_safe(platform, address) is False:
        raise Forbidden(
            "Requests from your address are not accepted at present, as it seems to belong to a VPN. "
            "Ask without it, or ask the moderators to make your account a trusted one.",
            "UntrustedUnsafeIP",
        )
    return True


def check_worker(platform: Platform, owner: UserFacts, address: str) -> bool:
    """Whether a worker of `owner` calls from an address that counts as safe.

    Nobody asks about those of trusted accounts, of supporters and of those with the VPN role. An unsafe
    address is refused with `UnsafeIP` (403), but in raid mode its worker must not notice: the answer is
    False. Raises `TooManyNewIPs` (403) while the checker cannot tell.
    """
    if owner.trusted or owner.supporter or owner.has(Role.VPN):
        return True
    safe = is_safe(platform, address)
    if safe is None:
        raise Forbidden(
            "Your worker's address cannot be checked at present, as there are too many new ones. "
            "Keep your worker running, it is checked again with its next calls.",
            "TooManyNewIPs",
        )
    if not safe and not modes(platform).raid:
        raise Forbidden(
            "Your worker's address seems to belong to a VPN, and workers may not run behind one. Run it "
            "without, or ask the moderators to allow it for your account.",
            "UnsafeIP",
        )
    return safe


def _verdict(platform: Platform, checker: str, network: Network, key: str) -> bool | None:
    try:
        kept = platform.cache.get(key)
        if kept is not None:
            return kept == b"1"
        safe = _ask(platform, checker.replace("{address}", quote(str(network.network_address), safe="")))
        if safe is not None:
            platform.cache.set(key, int(safe), ex=VERDICT_SECONDS)
    except redis.RedisError as error:
        log.warning("address taken for safe, Valkey does not answer", error=str(error))
        return True
    return safe


def _ask(platform: Platform, url: str) -> bool | None:
    try:
        status, content = outbound.ask(platform.settings, url, max_bytes=MOST_BYTES, seconds=CHECK_SECONDS)
    except OutboundError as error:
        log.warning("address checker not reached", error=str(error))
        return None
    if status == 429:
        log.warning("address checker is asked too often")
        return None
    probability = _probability(content) if status // 100 == 2 else None
    if probability is None:
        log.warning("address checker is broken, address taken for safe", status=status)
        return True
    return probability < SAFE_BELOW


def _probability(content: bytes) -> float | None:
    try:
        number = float(content)
    except ValueError:
        return None
    return number if 0 <= number <= 1 else None
