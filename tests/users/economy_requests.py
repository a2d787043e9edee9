"""The part of the economy that asks: requests with and without styles, collections and shared keys.

What each accepted request moved is compared, entry by entry, with what it had to; refused ones and dry runs
leave no trace.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from sqlalchemy.exc import IntegrityError

from horde.image import service
from horde.image.admission import Sender
from horde.image.schemas import GenerationInputStable
from horde.image.style_schemas import ModelStyleInputStable
from horde.image.styling import IMAGE
from horde.kudos.rules import BURN
from horde.platform.errors import HordeError
from horde.styles import collections, using
from horde.styles import service as styles
from horde.styles.collection_schemas import InputModelCollection
from horde.users import shared_keys
from horde.users.shared_key_schemas import SharedKeyInput
from tests.support import MODEL, Account, change, contents, scalar

NOTHING = str(UUID(int=0))
"""The id of what was refused. It is kept like any other: what is tried next must not depend on chance, like
the style that is taken of a collection."""
TAX, STYLE_TAX = Decimal(1), Decimal(2)
"""What a request costs once it is queued, and what more if its style is somebody else's, who gets it."""
ASKERS = ["asker", "careless"]
MAKERS = ["artist", *ASKERS]
LENDERS = ["artist", "careless"]
"""Those who let others spend what they have; what they spend may go below their floor."""
UNKNOWN = {"styles": "StyleNotFound", "collections": "CollectionNotFound", "shared_keys": "InvalidAPIKey"}
MOST_MAKINGS = 14
"""Styles, collections and keys of one run: most of the time people should ask."""
NOT_NOW = ("KudosUpfront", "TooManyPrompts", "SharedKeyEmpty", "SharedKeyInsufficientKudos")
MISSING = {
    "StyleNotFound": """
        SELECT (SELECT count(*) FROM styles WHERE id = CAST(:style AS uuid))
        + (SELECT count(*) FROM collection_styles WHERE collection_id = CAST(:style AS uuid))""",
    "InvalidAPIKey": "SELECT count(*) FROM shared_keys WHERE id = CAST(:key AS uuid)",
    "SharedKeyAssignedStyles": """
        SELECT count(*) FROM shared_keys WHERE id = CAST(:key AS uuid) AND NOT style_only""",
}
"""Of what a refusal says is not there, or not free, how much there is."""


@dataclass(frozen=True)
class Thing:
    """A style or collection, or a shared key."""

    table: str
    id: str
    owner: str


@dataclass
class Told:
    """What a request and its jobs say that was charged; as of their last sight, as they expire."""

    account: int
    key: UUID | None
    amount: Decimal


class Asking(RuleBasedStateMachine):
    """People who make styles, put them together, lend keys, and ask with all of that."""

    made_styles = Bundle("made_styles")
    sets = Bundle("sets")
    keys = Bundle("keys")
    requests = Bundle("requests")

    platform: Any
    people: dict[str, Account]
    counts: Counter[str]
    moved: Counter[tuple[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.makings = 0
        self.told: dict[UUID, Told] = {}
        self.used: Counter[UUID] = Counter()
        """Accepted requests by style and by collection,"""
        self.rewarded: Counter[str] = Counter()
        """and those that had to be rewarded, by the style's owner."""

    # What they make

    def few(self) -> bool:
        """Whether more may be made."""
        return self.makings < MOST_MAKINGS

    @initialize(target=keys)
    def there_is_a_key(self) -> Thing:
        return self.lend("artist", 1000)

    @initialize(target=made_styles)
    def there_are_styles(self) -> MultipleResults[Thing]:
        key = self.lend("artist", 1000)
        wanted = (("artist", None), ("artist", key), ("asker", None))
        return multiple(*(self.make_style(owner, lent) for owner, lent in wanted))

    @initialize(target=sets)
    def there_is_a_collection(self) -> Thing:
        members = [self.make_style("artist", key) for key in (None, self.lend("artist", 60))]
        return self.put_together("careless", members)

    @precondition(few)
    @rule(target=keys, owner=st.sampled_from(LENDERS), kudos=st.sampled_from([3, 60, 1000, -1]))
    def lend(self, owner: str, kudos: int) -> Thing:
        self.makings += 1
        try:
            key = shared_keys.create_key(self.platform, self.people[owner].key, SharedKeyInput(kudos=kudos))
        except HordeError as error:
            assert error.rc == "Forbidden"  # noqa: PT017 - they have as many as they may
            return Thing("shared_keys", NOTHING, owner)
        assert key.id is not None
        return Thing("shared_keys", key.id, owner)

    @precondition(few)
    @rule(target=made_styles, owner=st.sampled_from(MAKERS), key=st.none() | keys)
    def make_style(self, owner: str, key: Thing | None) -> Thing:
        self.makings += 1
        wanted = ModelStyleInputStable(
            name=str(uuid4()), models=[MODEL], **({"sharedkey": key.id} if key else {})
        )
        try:
            style = styles.create_style(self.platform, IMAGE, self.people[owner].key, wanted)
        except HordeError as error:
            self.counts[f"style refused: {error.rc}"] += 1
            assert key is not None
            if error.rc == "SharedKeyInvalid":
                assert key.owner != owner or not self.exists(key)
            else:
                assert error.rc == "SharedKeyEmpty"  # noqa: PT017
            return Thing("styles", NOTHING, owner)
        self.counts["style with a key" if key else "style"] += 1
        assert key is None or key.owner == owner
        return Thing("styles", style.id, owner)

    @precondition(few)
    @rule(target=sets, owner=st.sampled_from(MAKERS), members=st.lists(made_styles, min_size=1, max_size=3))
    def put_together(self, owner: str, members: list[Thing]) -> Thing:
        self.makings += 1
        there = all(self.exists(member) for member in members)
        wanted = InputModelCollection(name=str(uuid4()), styles=[member.id for member in members])
        try:
            made = collections.create_collection(self.platform, self.people[owner].key, wanted)
        except HordeError as error:
            assert (error.rc, there) == ("BadRequest", False)  # noqa: PT017
            return Thing("collections", NOTHING, owner)
        assert there
        self.counts["collection"] += 1
        return Thing("collections", made.id, owner)

    @rule(thing=made_styles | sets | keys)
    def drop(self, thing: Thing) -> None:
        """Also what is gone already."""
        there, owner = self.exists(thing), self.people[thing.owner].key
        try:
            if thing.table == "styles":
                styles.remove_style(self.platform, IMAGE, owner, thing.id)
            elif thing.table == "collections":
                collections.remove_collection(self.platform, owner, thing.id)
            else:
                shared_keys.remove_key(self.platform, owner, thing.id)
        except HordeError as error:
            assert (error.rc, there) == (UNKNOWN[thing.table], False)  # noqa: PT017
        else:
            assert there
            self.counts[f"deleted from {thing.table}"] += 1
        assert not self.exists(thing)

    @rule(key=keys)
    def free_key(self, key: Thing) -> None:
        try:
            shared_keys.change_key(
                self.platform, self.people[key.owner].key, key.id, SharedKeyInput(style_only=False)
            )
        except HordeError as error:
            assert error.rc == "InvalidAPIKey"  # noqa: PT017
            return
        attached = "SELECT count(*) FROM styles WHERE shared_key_id = CAST(:id AS uuid)"
        assert scalar(self.platform, attached, id=key.id) == 0

    def exists(self, thing: Thing) -> bool:
        query = f"SELECT count(*) FROM {thing.table} WHERE id = CAST(:id AS uuid)"
        return bool(scalar(self.platform, query, id=thing.id))

    # What they ask for

    @rule(target=requests, payer=st.sampled_from(ASKERS), n=st.integers(1, 4))
    def ask(self, payer: str, n: int) -> str:
        return self.request(self.people[payer].key, payer, n)

    @rule(
        target=requests,
        caller=st.sampled_from(ASKERS),
        n=st.integers(1, 4),
        what=made_styles | sets,
        dry_run=st.integers(0, 3).map(lambda number: number == 3),
    )
    def ask_with_a_style(self, caller: str, n: int, what: Thing, dry_run: bool) -> str:
        return self.request(self.people[caller].key, caller, n, style=what.id, dry_run=dry_run)

    @rule(target=requests, key=keys, n=st.integers(1, 4), what=st.none() | made_styles | sets)
    def ask_with_a_key(self, key: Thing, n: int, what: Thing | None) -> str:
        return self.request(key.id, key.owner, n, style=what.id if what else None)

    def request(
        self, api_key: str, caller: str, n: int, *, style: str | None = None, dry_run: bool = False
    ) -> str:
        """The id of a new request, or `NOTHING`. `caller` pays, unless the style has a key of its own."""
        wanted: dict[str, Any] = {"prompt": "a lighthouse", "params": {"n": n}, "dry_run": dry_run}
        wanted |= {"slow_workers": caller != "asker"} | ({"style": style} if style else {})
        request = GenerationInputStable.model_validate(wanted)
        sender = Sender(api_key, "127.0.0.1", "test:1:test")
        before = contents(self.platform)
        try:
            if dry_run:
                service.quote(self.platform, sender, request)
                self.counts["dry run"] += 1
                assert contents(self.platform) == before
                return NOTHING
            new = UUID(service.submit_request(self.platform, sender, request)["id"])
        except HordeError as error:
            # 503: the books would not take its tax.
            self.counts["crash: ask" if error.status == 503 else f"request refused: {error.rc}"] += 1
            assert error.rc in (*NOT_NOW, *MISSING) or error.status == 503  # noqa: PT017
            if error.rc in MISSING:
                assert scalar(self.platform, MISSING[error.rc], style=style, key=api_key) == 0  # noqa: PT017
            assert contents(self.platform) == before
            return NOTHING
        self.accepted(new, self.people[caller], api_key, styled=style is not None)
        return str(new)

    def accepted(self, request: UUID, caller: Account, api_key: str, *, styled: bool) -> None:
        """Hold what an accepted request moved against what it had to."""
        payer, tax, rewards = caller, TAX, []
        key = scalar(self.platform, "SELECT id::text FROM shared_keys WHERE id::text = :key", key=api_key)
        kind = "request with a key" if key else "request"
        if styled:
            style, owner, lent = self.chosen()
            kind = f"{kind}, style" if len(style) == 1 else f"{kind}, style of a collection"
            if lent is not None:
                payer, key, kind = owner, lent, f"{kind} with a key"
            if owner != payer:
                tax += STYLE_TAX
                rewards = [(owner.balance, STYLE_TAX, "styled")]
                self.moved[self.name_of(owner), "styled"] += STYLE_TAX
                self.rewarded[self.name_of(owner)] += 1
            self.used.update(style)
        self.counts[kind] += 1
        assert self.entries(request) == sorted(
            [(payer.balance, -tax, "accumulated"), (BURN, TAX, None), *rewards]
        )
        spending = "SELECT shared_key_id::text FROM shared_key_spending WHERE request_id = :id"
        assert scalar(self.platform, spending, id=request) == key
        self.told[request] = Told(payer.balance, UUID(key) if key else None, tax)

    def chosen(self) -> tuple[list[UUID], Account, str | None]:
        """The last request's style and the collection that it is from; its owner; its usable key."""
        with self.platform.read() as db:
            use = db.exec_driver_sql(
                """SELECT style_id, collection_id, owner_id, rewarded_id, key.id::text AS key, key.kudos
                FROM style_uses JOIN styles ON styles.id = style_id
                LEFT JOIN shared_keys key ON key.id = styles.shared_key_id
                ORDER BY style_uses.id DESC LIMIT 1"""
            ).one()
        owner = next(person for person in self.people.values() if person.id == use.owner_id)
        lent = use.key if use.key and use.kudos != 0 else None
        return [i for i in (use.style_id, use.collection_id) if i], owner, lent

    def name_of(self, person: Account) -> str:
        return next(name for name, each in self.people.items() if each == person)

    def entries(self, request: UUID) -> list[tuple[int, Decimal, str | None]]:
        with self.platform.read() as db:
            rows = db.exec_driver_sql(
                "SELECT account_id, amount, action FROM ledger_entries WHERE event_id = %s ORDER BY 1, 2, 3",
                (request,),
            ).all()
        return [tuple(row) for row in rows]

    # What time does, and what goes wrong

    @rule()
    def count_uses(self) -> None:
        pending = scalar(self.platform, "SELECT count(*) FROM style_uses")
        assert using.fold_uses(self.platform) == pending
        assert scalar(self.platform, "SELECT count(*) FROM style_uses") == 0
        self.counts["counted use of a style"] += pending

    @rule()
    def crash_while_uses_are_counted(self) -> None:
        with self.broken("styles"):
            before = contents(self.platform)
            try:
                using.fold_uses(self.platform)
            except IntegrityError:
                self.counts["crash: count uses"] += 1
                assert contents(self.platform) == before

    @rule(
        caller=st.sampled_from(ASKERS),
        what=made_styles | sets,
        table=st.sampled_from(["ledger_entries", "style_uses"]),
    )
    def crash_of_a_styled_request(self, caller: str, what: Thing, table: str) -> None:
        with self.broken(table):
            assert self.request(self.people[caller].key, caller, 1, style=what.id) == NOTHING

    @contextmanager
    def broken(self, table: str) -> Iterator[None]:
        """Inside, nothing can be written to a table: whoever tries is interrupted in their transaction."""
        change(self.platform, f"ALTER TABLE {table} ADD CONSTRAINT crash CHECK (false) NOT VALID")
        try:
            yield
        finally:
            change(self.platform, f"ALTER TABLE {table} DROP CONSTRAINT crash")

    # What always holds

    @invariant()
    def requests_cost_what_they_and_their_jobs_say(self) -> None:
        """What asking moved is the sum of taxes and charges, request by request and job by job."""
        with self.platform.read() as db:
            for row in db.exec_driver_sql(
                """SELECT id, account_id, tax + (
                    SELECT coalesce(sum(charged), 0) FROM jobs WHERE request_id = requests.id
                ) AS amount FROM requests"""
            ):
                assert self.told[row.id].account == row.account_id
                self.told[row.id].amount = row.amount
            spent = dict(
                db.exec_driver_sql(
                    """SELECT account_id, -sum(amount) FROM ledger_entries
                    WHERE action = 'accumulated' AND amount < 0 GROUP BY 1"""
                ).all()
            )
        told: Counter[int] = Counter()
        for request in self.told.values():
            told[request.account] += request.amount
        assert spent == dict(told)

    @invariant()
    def uses_are_counted_once(self) -> None:
        with self.platform.read() as db:
            for table, column in (("styles", "style_id"), ("collections", "collection_id")):
                for row in db.exec_driver_sql(
                    f"""SELECT id, use_count + (
                        SELECT count(*) FROM style_uses WHERE {column} = {table}.id
                    ) AS uses FROM {table}"""
                ):
                    assert row.uses == self.used[row.id]
        query = """
            SELECT coalesce((SELECT amount FROM user_records
                WHERE user_id = :id AND record = 'style' AND kind = 'image'), 0)
            + (SELECT count(*) FROM style_uses WHERE rewarded_id = :id)"""
        for name, person in self.people.items():
            assert scalar(self.platform, query, id=person.id) == self.rewarded[name]

    def check_keys(self) -> None:
        """Once all is folded, keys tell what was spent with them."""
        spent: Counter[UUID] = Counter()
        for request in self.told.values():
            if request.key is not None:
                spent[request.key] += request.amount
        with self.platform.read() as db:
            for row in db.exec_driver_sql("SELECT id, utilized FROM shared_keys"):
                assert row.utilized == spent[row.id]
