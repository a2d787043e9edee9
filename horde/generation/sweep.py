"""What time does to requests and jobs, and what is folded from ended jobs. Run by the leader."""

import orjson
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from horde.generation import calls, settlement
from horde.generation.rules import FASTEST, SHORTEST_SECONDS
from horde.platform.runtime import Platform

BATCH = 500

_EXPIRE = text("""
    WITH dead AS (
        SELECT id FROM requests request
        WHERE expires < now() AND NOT EXISTS (
            SELECT FROM jobs WHERE jobs.request_id = request.id AND NOT decoy AND (
                state = 'processing' OR finished > now() - make_interval(secs => :keep)
            )
        )
        ORDER BY expires LIMIT :limit FOR UPDATE SKIP LOCKED
    ), released AS (
        DELETE FROM reservations USING dead WHERE reservations.request_id = dead.id
    ), gone AS (
        DELETE FROM requests USING dead WHERE requests.id = dead.id RETURNING user_id, kind
    ), records AS (
        INSERT INTO user_records (user_id, record, kind, amount)
        SELECT user_id, 'request', kind, count(*) FROM gone GROUP BY 1, 3 ORDER BY 1, 3
        ON CONFLICT (user_id, record, kind) DO UPDATE SET amount = user_records.amount + excluded.amount
    )
    SELECT count(*) FROM gone
""")


def expire_requests(platform: Platform) -> int:
    """Forget requests that nobody has touched for their lifetime, with their jobs; returns how many.

    A request lives on while one of its jobs is under way, and for its full lifetime after each delivery.
    What was reserved for it is released; what it was charged stays charged. Besides each of its results that
    was delivered, the request itself now counts among its sender's.
    """
    total = 0
    while True:
        with platform.engine.begin() as db:
            values = {"keep": platform.settings.request_ttl_seconds, "limit": BATCH}
            gone = int(db.execute(_EXPIRE, values).scalar_one())
        total += gone
        if gone < BATCH:
            return total


def abort_overdue_jobs(platform: Platform) -> int:
    """Hand jobs out again whose workers did not deliver in time; returns how many."""
    total = 0
    while True:
        with platform.engine.begin() as db:
            aborted = settlement.abort_overdue(db, BATCH)
        calls.announce_again(platform, aborted)
        total += len(aborted)
        if len(aborted) < BATCH:
            return total


_RELEASE = text("""
    DELETE FROM reservations USING requests request
    WHERE reservations.request_id = request.id AND request.n = 0
        AND NOT EXISTS (
            SELECT FROM jobs
            WHERE jobs.request_id = request.id AND jobs.state = 'processing' AND NOT jobs.decoy
        )
""")


def release_reservations(platform: Platform) -> int:
    """Give back what is reserved for requests that have ended; returns how many there were."""
    with platform.engine.begin() as db:
        return db.execute(_RELEASE).rowcount


_CLOSE_LANES = text("""
    WITH used AS (
        SELECT lane_id AS id FROM queue UNION SELECT unnest(lanes) FROM requests
    )
    DELETE FROM lanes WHERE NOT EXISTS (SELECT FROM used WHERE used.id = lanes.id)
""")


def close_empty_lanes(platform: Platform) -> int:
    """Remove lanes that no live request knows, so that searching stays quick; returns how many.

    Somebody may queue into such a lane at this moment: then the foreign key of the queue makes one of
    the two fail. Here that means that the lanes stay until next time.
    """
    try:
        with platform.engine.begin() as db:
            return db.execute(_CLOSE_LANES).rowcount
    except IntegrityError:
        return 0


# Here and elsewhere several workers are locked in the order of their ids: so nobody who holds one of them
# waits for somebody who waits for that.
_FOLD_RECORDS = text("""
    WITH batch AS (
        SELECT id FROM generation_records WHERE NOT folded LIMIT :limit FOR UPDATE SKIP LOCKED
    ), record AS (
        UPDATE generation_records SET folded = true FROM batch WHERE generation_records.id = batch.id
        RETURNING generation_records.*
    ), delivered AS (
        SELECT * FROM record WHERE state IN ('ok', 'censored', 'csam')
    ), person AS (
        SELECT user_id, 'request' AS record, kind, 1::numeric AS amount FROM delivered
        UNION ALL SELECT delivered.user_id, 'usage', kind, things * users.usage_multiplier
            FROM delivered JOIN users ON users.id = delivered.user_id
        UNION ALL SELECT owner_id, 'fulfillment', kind, 1 FROM delivered
        UNION ALL SELECT owner_id, 'contribution', kind, things FROM delivered
    ), people AS (
        INSERT INTO user_records (user_id, record, kind, amount)
        SELECT user_id, record, kind, sum(amount) FROM person GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (user_id, record, kind) DO UPDATE SET amount = user_records.amount + excluded.amount
    ), machine AS (
        SELECT worker_id,
            count(*) FILTER (WHERE state IN ('ok', 'censored', 'csam')) AS delivered,
            coalesce(sum(things) FILTER (WHERE state IN ('ok', 'censored', 'csam')), 0) AS things,
            sum(kudos) AS kudos,
            count(*) FILTER (WHERE state IN ('faulted', 'aborted')) AS lost
        FROM record GROUP BY 1
    ), held AS (
        SELECT id FROM workers WHERE id IN (SELECT worker_id FROM machine) ORDER BY id FOR NO KEY UPDATE
    ), machines AS (
        UPDATE workers SET
            fulfilments = fulfilments + delivered,
            contributions = contributions + things,
            kudos_generated = kudos_generated + kudos,
            uncompleted_jobs = uncompleted_jobs + lost,
            dropped = CASE WHEN lost > 0 AND dropping_since < now() - interval '1 hour'
                THEN lost ELSE dropped + lost END,
            dropping_since = CASE WHEN lost > 0 AND dropping_since < now() - interval '1 hour'
                THEN now() ELSE dropping_since END
        FROM machine JOIN held ON held.id = machine.worker_id WHERE workers.id = machine.worker_id
    ), team AS (
        UPDATE teams SET
            fulfilments = fulfilments + member.delivered,
            contributions = contributions + member.things,
            kudos = teams.kudos + member.kudos,
            last_active = now()
        FROM (
            SELECT team_id, count(*) AS delivered, sum(things) AS things, sum(kudos) AS kudos
            FROM delivered WHERE team_id IS NOT NULL GROUP BY 1
        ) member WHERE teams.id = member.team_id
    )
    SELECT count(*) AS records, ARRAY(
        SELECT owner_id FROM delivered UNION SELECT user_id FROM delivered WHERE user_id <> 0
    ) AS active FROM record
""")
_ACTIVE = text("UPDATE users SET last_active = now() WHERE id = ANY(CAST(:ids AS bigint[]))")


def fold_records(platform: Platform) -> int:
    """Add ended jobs to their requesters', owners', workers' and teams' totals; returns how many jobs.

    Jobs that were lost count among those that their worker dropped, for an hour from the first one.
    """
    total = 0
    while True:
        with platform.engine.begin() as db:
            folded = db.execute(_FOLD_RECORDS, {"limit": BATCH * 4}).one()
            if folded.active:
                db.execute(_ACTIVE, {"ids": folded.active})
        total += int(folded.records)
        if folded.records < BATCH * 4:
            return total


# What was taken at once is one piece of work: as many results as came of it took until the last of them.
_SPEEDS = text("""
    WITH active AS (
        SELECT DISTINCT worker_id, kind FROM generation_records
        WHERE finished > now() - interval '180 seconds'
    ), newest AS (
        SELECT active.worker_id, active.kind, delivery.started, count(*) AS results
        FROM active, LATERAL (
            SELECT started FROM generation_records
            WHERE worker_id = active.worker_id AND state IN ('ok', 'censored', 'csam')
            ORDER BY finished DESC LIMIT 20
        ) delivery GROUP BY 1, 2, 3
    ), sample AS (
        SELECT newest.worker_id, newest.results, least(
            work.things / greatest(work.seconds, :shortest),
            CAST(CAST(:fastest AS jsonb) ->> newest.kind AS float8)
        ) AS speed
        FROM newest, LATERAL (
            SELECT sum(things) AS things, extract(epoch FROM max(finished) - newest.started) AS seconds
            FROM generation_records
            WHERE worker_id = newest.worker_id AND finished >= newest.started AND started = newest.started
                AND state IN ('ok', 'censored', 'csam')
        ) work
    ), mean AS (
        SELECT worker_id, sum(speed * results) / sum(results) AS speed FROM sample GROUP BY 1
    ), held AS (
        SELECT id FROM workers WHERE id IN (SELECT worker_id FROM mean) ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE workers SET speed = mean.speed FROM mean JOIN held ON held.id = mean.worker_id
    WHERE workers.id = mean.worker_id AND mean.speed > 0
""")


def measure_speeds(platform: Platform) -> int:
    """Set the speed of workers that delivered lately to the mean of their newest 20 deliveries.

    None counts for more than `FASTEST` of its kind. Returns how many workers there were.
    """
    values = {"shortest": SHORTEST_SECONDS, "fastest": orjson.dumps(dict(FASTEST)).decode()}
    with platform.engine.begin() as db:
        return db.execute(_SPEEDS, values).rowcount


_KEPT = text("""
    WITH old AS (
        SELECT id FROM requests WHERE created < now() - make_interval(secs => :age)
    )
    SELECT id FROM old
    UNION ALL SELECT jobs.id FROM jobs JOIN old ON old.id = jobs.request_id WHERE NOT jobs.decoy
""")


def delete_old_pictures(platform: Platform) -> int:
    """Delete stored pictures that are older than `object_lifetime_seconds`; returns how many.

    Pictures of live requests stay however old they are: a request lives for as long as somebody works on
    it, its workers need its source images and its requester the results so far. All keys begin with the id
    of a request or job.
    """
    lifetime = platform.settings.object_lifetime_seconds
    with platform.read() as db:
        # Source images are stored before their request, and the store's clock may differ from the database's.
        kept = {str(row.id) for row in db.execute(_KEPT, {"age": lifetime / 2})}
    return platform.store.sweep(lifetime, lambda key: key[:36] in kept)
