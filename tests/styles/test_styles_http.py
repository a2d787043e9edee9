"""Styles over HTTP: making, showing, listing, changing and deleting them."""

from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.styles.support import STYLE, TEXT_STYLE, made, shared_key, shown
from tests.support import FLUX, MODEL, Account, Horde, assert_refused, change, in_threads, scalar, unchanged

KINDS = {"image": STYLE, "text": TEXT_STYLE}


def post(horde: Horde, key: Account | str | None, kind: str = "image", **fields: Any) -> Any:
    return horde.call("POST", f"/styles/{kind}", key, json=KINDS[kind] | fields)


def patch(horde: Horde, key: Account | str | None, style: str, kind: str = "image", **fields: Any) -> Any:
    return horde.call("PATCH", f"/styles/{kind}/{style}", key, json=fields)


class TestMaking:
    def test_an_image_style(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter)
        assert shown(horde, style) == STYLE | {
            "id": style,
            "params": {
                "steps": 20,
                "width": 640,
                "loras": [{"name": "brush", "model": 1.0, "clip": 1.0, "is_version": False}],
            },
            "public": True,
            "nsfw": False,
            "use_count": 0,
            "creator": painter.alias,
            "examples": [],
        }

    def test_a_text_style(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter, "text")
        found = shown(horde, style, kind="text")
        assert found["params"] == {
            "top_k": 5,
            "min_p": 0.0,
            "smoothing_factor": 0.0,
            "dynatemp_range": 0.0,
            "dynatemp_exponent": 1.0,
        }
        assert (found["prompt"], found["info"], found["creator"]) == ("Sing: {p}", "", painter.alias)

    def test_what_is_left_out(self, horde: Horde, painter: Account) -> None:
        for kind, prompt in (("image", "{p}{np}"), ("text", "{p}")):
            body = {"name": kind, "models": ["x"], "unknown": 1}
            response = horde.call("POST", f"/styles/{kind}", painter, json=body)
            found = shown(horde, response.json["id"], kind=kind)
            assert (found["prompt"], "params" in found, found["tags"]) == (prompt, False, [])

    def test_only_known_parameters_are_kept(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter, params={"steps": 9, "seed": "1", "n": 4, "control_type": "hed"})
        assert shown(horde, style)["params"] == {"steps": 9}

    def test_texts_are_cleaned(self, horde: Horde, painter: Account) -> None:
        style = made(
            horde,
            painter,
            name="  Oil\n\u200b paint ",
            info=" All  in\u202e oil\r\n\u2028even this \x1b[1m",
            tags=[" a ", "a", "b"],
            models=["x", "x", "y" * 200],
        )
        found = shown(horde, style)
        assert found["info"] == "All in oil\n\neven this [1m"
        assert (found["name"], found["tags"]) == ("Oil paint", ["a", "b"])
        assert found["models"] == ["x", "y" * 100]

    @pytest.mark.parametrize("kind", KINDS)
    def test_who_may(self, horde: Horde, kind: str) -> None:
        for role in (Role.CUSTOMIZER, Role.TRUSTED, Role.MODERATOR):
            assert post(horde, horde.account(role), kind).status_code == 200
        with unchanged(horde.platform):
            assert "apikey" in post(horde, None, kind).json["errors"]
            assert_refused(post(horde, "x" * 22, kind), 401, "InvalidAPIKey")
        plain, gone = horde.account(amount=9), horde.account(Role.TRUSTED, Role.DELETED)
        with unchanged(horde.platform):
            assert_refused(post(horde, plain, kind), 403, "StylesRequiresCustomizer")
            assert_refused(post(horde, ANONYMOUS_KEY, kind), 403, "StylesRequiresCustomizer")
            assert_refused(post(horde, gone, kind), 403, "DeletedUser")

    @pytest.mark.parametrize(
        ("fields", "rc", "word"),
        [
            ({"models": []}, "BadRequest", "model"),
            ({"models": list("abcdef")}, "BadRequest", "5"),
            ({"tags": list("abcdefghijk")}, "BadRequest", "10"),
            ({"name": "a::b"}, "BadRequest", "::"),
            ({"name": " \u200b"}, "BadRequest", "visible"),
            ({"prompt": "{p} only"}, "StylePromptMissingVars", "{np}"),
            ({"prompt": "neither"}, "StylePromptMissingVars", "{p} and {np}"),
            ({"sharedkey": str(UUID(int=9))}, "SharedKeyInvalid", "shared key"),
            ({"sharedkey": "x" * 36}, "SharedKeyInvalid", "shared key"),
            ({"models": [FLUX], "params": {"hires_fix": True}}, "HiResMismatch", "hires_fix"),
            ({"params": {"loras": [{"name": "1"}] * 6}}, "TooManyLoras", "5"),
            ({"params": {"loras": [{"name": "v1", "is_version": True}]}}, "BadLoraVersion", "digits"),
            ({"params": {"tis": [{"name": "1"}] * 21}}, "TooManyTIs", "20"),
            ({"models": [FLUX], "params": {"transparent": True}}, "InvalidTransparencyModel", "transparent"),
            ({"models": [FLUX], "params": {"workflow": "qr_code"}}, "ControlNetMismatch", "qr_code"),
            ({"prompt": "{p}{np} " + "word " * 7500}, "InvalidPromptSize", "7500"),
            ({"prompt": "{p}{np}" + "x" * 100_000}, "InvalidPromptSize", "100000 characters"),
            ({"models": ["CodeFormers"]}, "UnexpectedModelName", "post-processor"),
            (
                {"params": {"post_processing": ["NMKD_Siax", "4x_AnimeSharp"]}},
                "TooManyUpscalers",
                "upscaler",
            ),
            ({"params": {"cfg_scale": 5.125}}, "BadCFGDecimals", "decimals"),
            ({"params": {"special": {"a": {}}}}, "SpecialFieldNeedsSpecialUser", "special"),
        ],
        ids=str,
    )
    def test_what_is_refused(
        self, horde: Horde, painter: Account, fields: dict[str, Any], rc: str, word: str
    ) -> None:
        with unchanged(horde.platform):
            assert_refused(post(horde, painter, **fields), 400, rc, word)

    def test_special_models(self, horde: Horde, painter: Account) -> None:
        model = {"models": ["horde_special::a#1"]}
        assert_refused(post(horde, painter, **model), 403, "SpecialModelNeedsSpecialUser")
        special = horde.account(Role.CUSTOMIZER, Role.SPECIAL)
        assert_refused(post(horde, special, **model), 403, "SpecialForbidden")
        own = {"models": [f"horde_special::{special.alias}"], "params": {"special": {"a": {}}}}
        assert post(horde, special, **own).status_code == 200

    @pytest.mark.parametrize(
        ("params", "rc"),
        [
            ({"sampler_order": [0, 1, 2, 3, 4, 5, 5]}, "MissingFullSamplerOrder"),
            ({"stop_sequence": [str(number) for number in range(129)]}, "TooManyStopSequences"),
            ({"stop_sequence": ["x" * 2001]}, "ExcessiveStopSequence"),
        ],
        ids=str,
    )
    def test_text_parameters(self, horde: Horde, painter: Account, params: dict[str, Any], rc: str) -> None:
        assert_refused(post(horde, painter, "text", params=params), 400, rc)
        assert_refused(post(horde, painter, "text", prompt="none"), 400, "StylePromptMissingVars", "{p}")

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"name": ""}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"info": "short"}, "info"),
            ({"prompt": "{p}"}, "prompt"),
            ({"tags": ["x" * 26]}, "tags.0"),
            ({"models": [""]}, "models.0"),
            ({"params": {"steps": 501}}, "params.steps"),
            ({"params": {"sampler_name": "none"}}, "params.sampler_name"),
            ({"sharedkey": "x"}, "sharedkey"),
        ],
        ids=str,
    )
    def test_what_does_not_fit(
        self, horde: Horde, painter: Account, fields: dict[str, Any], path: str
    ) -> None:
        response = post(horde, painter, **fields)
        assert (response.status_code, list(response.json["errors"])) == (400, [path])

    @pytest.mark.parametrize("field", ["name", "info", "tags", "models"])
    def test_profane_words(self, horde: Horde, painter: Account, field: str) -> None:
        value = "holy shit in oil"
        fields = {field: [value] if field in ("tags", "models") else value}
        with unchanged(horde.platform):
            assert_refused(post(horde, painter, **fields), 400, "BadRequest", "profane")

    def test_names_are_unique_per_account(self, horde: Horde, painter: Account, stranger: Account) -> None:
        made(horde, painter)
        with unchanged(horde.platform):
            assert_refused(post(horde, painter), 400, "BadRequest", "Oil")
            assert_refused(post(horde, painter, "text", name="Oil"), 400, "BadRequest", "Oil")
        assert post(horde, painter, name="oil").status_code == 200
        assert post(horde, stranger).status_code == 200

    def test_the_same_name_at_once(self, horde: Horde, painter: Account) -> None:
        def send(_number: int) -> int:
            client = horde.client.application.test_client()
            headers = {"apikey": painter.key}
            return int(client.post("/api/v2/styles/image", json=STYLE, headers=headers).status_code)

        assert in_threads(2, send).count(200) == 1
        assert scalar(horde.platform, "SELECT count(*) FROM styles") == 1

    def test_warnings(self, horde: Horde, painter: Account) -> None:
        fields = {"models": ["Pony Diffusion XL"], "params": {"clip_skip": 1}}
        warnings = post(horde, painter, **fields).json["warnings"]
        assert [warning["code"] for warning in warnings] == ["ClipSkipMismatch"]
        assert "Pony" in warnings[0]["message"]


class TestShowing:
    @pytest.mark.parametrize("style", [str(UUID(int=7)), "abc", "0"])
    def test_no_style(self, horde: Horde, style: str) -> None:
        for kind in KINDS:
            assert_refused(horde.call("GET", f"/styles/{kind}/{style}"), 404, "StyleNotFound")

    def test_a_style_of_another_kind(self, horde: Horde, painter: Account) -> None:
        image, text = made(horde, painter), made(horde, painter, "text")
        for path in (f"text/{image}", f"image/{text}"):
            for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
                response = horde.call(method, f"/styles/{path}", painter, json=body)
                assert_refused(response, 400, "StyleGetMistmatch")

    def test_names(self, horde: Horde, painter: Account, stranger: Account) -> None:
        mine = made(horde, painter, name="Sea/sky?", public=False)
        theirs = made(horde, stranger, name="Sea/sky?")

        def found(name: str, kind: str = "image") -> Any:
            response = horde.call("GET", f"/styles/{kind}_by_name/{quote(name)}")
            return response.json.get("id", response.json.get("rc"))

        assert found("Sea/sky?") == found("style::Sea/sky?") == mine
        for account, style in ((painter, mine), (stranger, theirs)):
            for alias in (account.alias, str(account.id)):
                for name in (
                    f"{alias}::Sea/sky?",
                    f"{alias}::style::Sea/sky?",
                    f"style::{alias}::Sea/sky?",
                ):
                    assert found(name) == style
        for name in ("sea/sky?", "Nobody#999::Sea/sky?", "collection::Sea/sky?", "x::Sea/sky?", "a::b::c::d"):
            assert found(name) == "StyleNotFound"
        assert found("Sea/sky?", "text") == "StyleGetMistmatch"

    def test_an_attached_key(self, horde: Horde, painter: Account, stranger: Account) -> None:
        key = shared_key(horde, painter, kudos=300, name="Mine")
        style = made(horde, painter, sharedkey=key)
        own = shown(horde, style, painter)["shared_key"]
        assert shown(horde, style, painter)["sharedkey"] == key
        assert own == horde.call("GET", f"/sharedkeys/{key}").json
        assert (own["id"], own["style_only"]) == (key, True)
        for viewer in (None, stranger):
            others = shown(horde, style, viewer)["shared_key"]
            assert (others["username"], others["kudos"], others["name"]) == (painter.alias, 300, "")
            assert key not in str(shown(horde, style, viewer))
        assert key not in horde.call("GET", "/styles/image").text
        assert horde.call("GET", f"/styles/image/{style}", "no key").status_code == 200


class TestListing:
    def test_the_public_ones(self, horde: Horde, painter: Account) -> None:
        first = made(horde, painter, name="first", tags=["a"], models=["x"])
        second = made(horde, painter, name="second", tags=["a", "b"], models=["x", "y"])
        made(horde, painter, name="hidden", tags=["a"], public=False)
        made(horde, painter, "text", name="text", tags=["a"])
        change(horde.platform, "UPDATE styles SET use_count = 5 WHERE id = :id", id=second)

        def listed(query: str = "") -> list[str]:
            return [style["id"] for style in horde.call("GET", f"/styles/image?{query}").json]

        assert listed() == listed("sort=popular&page=0") == listed("page=-3") == [second, first]
        assert listed("sort=age") == [first, second]
        assert listed("tag=b") == listed("model=y") == [second]
        assert listed("tag=A") == listed("model=z") == listed("page=2") == listed("page=99999999") == []
        assert [style["name"] for style in horde.call("GET", "/styles/text").json] == ["text"]

    def test_pages(self, horde: Horde, painter: Account) -> None:
        for number in range(27):
            made(horde, painter, name=str(number))
        pages = [horde.call("GET", f"/styles/image?sort=age&page={page}").json for page in (1, 2, 3)]
        assert [[style["name"] for style in page] for page in pages] == [
            [str(number) for number in range(25)],
            ["25", "26"],
            [],
        ]

    def test_an_unknown_order(self, horde: Horde) -> None:
        assert_refused(horde.call("GET", "/styles/image?sort=best"), 400, "BadRequest", "popular")

    def test_in_the_account(self, horde: Horde, painter: Account, moderator: Account) -> None:
        listed = made(horde, painter)
        hidden = made(horde, painter, "text", public=False)
        public = [{"name": f"{painter.alias}::style::Oil", "id": listed, "type": "image"}]
        private = [{"name": f"{painter.alias}::style::Bard", "id": hidden, "type": "text"}]
        path = f"/users/{painter.id}"
        assert horde.call("GET", path).json["styles"] == public
        assert horde.call("GET", path, moderator).json["styles"] == public + private
        assert horde.call("GET", "/find_user", painter).json["styles"] == public + private


class TestChanging:
    @pytest.mark.parametrize("kind", KINDS)
    def test_only_what_is_sent(self, horde: Horde, painter: Account, kind: str) -> None:
        style = made(horde, painter, kind, public=False, nsfw=True)
        before = shown(horde, style, kind=kind)
        for fields in (
            {"name": "New"},
            {"info": "x"},
            {"prompt": "{p} and {np}!"},
            {"public": True},
            {"nsfw": False},
            {"tags": []},
            {"tags": ["z"]},
            {"models": ["one", "two"]},
        ):
            answer = patch(horde, painter, style, kind, **fields)
            assert answer.json == {"id": style, "message": "OK", "warnings": []}
            before |= fields
            assert shown(horde, style, kind=kind) == before
        assert patch(horde, painter, style, kind, params={"top_k": 7, "steps": 9}).status_code == 200
        after = shown(horde, style, kind=kind)["params"]
        assert after["steps" if kind == "image" else "top_k"] == (9 if kind == "image" else 7)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_whole_style_sent_back(self, horde: Horde, painter: Account, kind: str) -> None:
        style = made(horde, painter, kind)
        before = shown(horde, style, kind=kind)
        fields = before | {"sharedkey": None, "info": before["info"]}
        assert patch(horde, painter, style, kind, **fields).status_code == 200
        assert shown(horde, style, kind=kind) == before

    def test_all_that_a_style_can_hold_sent_back(self, horde: Horde) -> None:
        owner = horde.account(Role.CUSTOMIZER, Role.SPECIAL)
        style = made(
            horde,
            owner,
            public=False,
            nsfw=True,
            models=["x" * 99 + " y", f"horde_special::{owner.alias}"],
            sharedkey=shared_key(horde, owner),
            params={
                "sampler_name": "k_dpm_2",
                "cfg_scale": 7.25,
                "denoising_strength": 0.5,
                "hires_fix_denoising_strength": 0.5,
                "height": 64,
                "width": 3072,
                "post_processing": ["GFPGAN"],
                "karras": False,
                "tiling": True,
                "hires_fix": True,
                "clip_skip": 2,
                "facefixer_strength": 0.1,
                "loras": [{"name": "a", "inject_trigger": "any"}, {"name": "1", "is_version": True}],
                "tis": [{"name": "b", "inject_ti": "negprompt"}],
                "special": {"a": {"b": None}},
                "transparent": False,
                "steps": 500,
            },
        )
        url = {"url": "https://example.com/a"}
        assert horde.call("POST", f"/styles/image/{style}/example", owner, json=url).status_code == 200
        before = shown(horde, style, owner)
        assert patch(horde, owner, style, **before).status_code == 200
        assert shown(horde, style, owner) == before
        nothing = dict.fromkeys(("inject_ti", "strength"))
        params = before["params"] | {
            "workflow": None,
            "tis": [before["params"]["tis"][0], {"name": "c"} | nothing],
        }
        assert patch(horde, owner, style, params=params, sharedkey=None).status_code == 200
        expected = before["params"]["tis"] + [{"name": "c", "strength": 1.0}]
        assert shown(horde, style, owner) == before | {"params": before["params"] | {"tis": expected}}

    def test_nested_deeply(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter)
        for depth in (100, 100_000):
            body = '{"params": ' + '{"a": [' * depth + "]}" * depth + "}"
            headers = {"Content-Type": "application/json"}
            answer = horde.call("PATCH", f"/styles/image/{style}", painter, headers, data=body)
            assert answer.status_code in (200, 400)

    def test_who_may_not(self, horde: Horde, painter: Account, stranger: Account, moderator: Account) -> None:
        style = made(horde, painter)
        for key in (stranger, moderator, ANONYMOUS_KEY):
            assert_refused(patch(horde, key, style, info="x"), 403, "Forbidden")
        assert_refused(patch(horde, "x" * 22, style, info="x"), 401, "InvalidAPIKey")
        assert_refused(patch(horde, painter, str(uuid4()), info="x"), 404, "StyleNotFound")
        assert_refused(patch(horde, painter, "abc", info="x"), 404, "StyleNotFound")
        change(
            horde.platform, "INSERT INTO user_roles (user_id, role) VALUES (:id, 'deleted')", id=painter.id
        )
        assert_refused(patch(horde, painter, style, info="x"), 403, "DeletedUser")
        assert shown(horde, style)["info"] == STYLE["info"]

    def test_the_result_must_fit(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter, models=[FLUX])
        made(horde, painter, name="taken")
        with unchanged(horde.platform):
            assert_refused(patch(horde, painter, style, params={"hires_fix": True}), 400, "HiResMismatch")
            assert_refused(patch(horde, painter, style, name="taken"), 400, "BadRequest", "taken")
            assert_refused(patch(horde, painter, style, models=[]), 400, "BadRequest", "model")
            assert_refused(patch(horde, painter, style, prompt="nothing"), 400, "StylePromptMissingVars")
        assert patch(horde, painter, style, name="Oil").status_code == 200
        both = {"models": [MODEL], "params": {"hires_fix": True}}
        assert patch(horde, painter, style, **both).status_code == 200
        assert_refused(patch(horde, painter, style, models=[FLUX]), 400, "HiResMismatch")


class TestKeys:
    """Shared keys attached to styles."""

    def test_only_ones_own(self, horde: Horde, painter: Account, stranger: Account) -> None:
        key, style = shared_key(horde, stranger), made(horde, painter)
        with unchanged(horde.platform):
            assert_refused(post(horde, painter, name="b", sharedkey=key), 400, "SharedKeyInvalid")
            assert_refused(patch(horde, painter, style, sharedkey=key), 400, "SharedKeyInvalid")
        assert horde.ask(key).status_code == 202

    def test_only_usable_ones(self, horde: Horde, painter: Account) -> None:
        empty, expired = shared_key(horde, painter, kudos=0), shared_key(horde, painter)
        horde.call("PATCH", f"/sharedkeys/{expired}", painter, json={"expiry": 0})
        for key, rc in ((empty, "SharedKeyEmpty"), (expired, "SharedKeyExpired")):
            assert_refused(post(horde, painter, sharedkey=key), 400, rc)

    def test_it_is_of_no_other_use_until_it_is_freed(self, horde: Horde, painter: Account) -> None:
        key, style = shared_key(horde, painter), made(horde, painter)
        assert horde.ask(key).status_code == 202
        assert patch(horde, painter, style, sharedkey=key).status_code == 200
        assert_refused(horde.ask(key), 403, "SharedKeyAssignedStyles")
        horde.call("DELETE", f"/styles/image/{style}", painter)
        assert_refused(horde.ask(key), 403, "SharedKeyAssignedStyles")
        freed = horde.call("PATCH", f"/sharedkeys/{key}", painter, json={"style_only": False})
        assert "style_only" not in freed.json
        assert horde.ask(key).status_code == 202

    def test_another_one(self, horde: Horde, painter: Account) -> None:
        first, second = shared_key(horde, painter), shared_key(horde, painter)
        style = made(horde, painter, sharedkey=first)
        change(horde.platform, "UPDATE shared_keys SET kudos = 0 WHERE id = :id", id=first)
        assert patch(horde, painter, style, **shown(horde, style, painter)).status_code == 200
        assert patch(horde, painter, style, sharedkey=second).status_code == 200
        assert shown(horde, style, painter)["shared_key"]["id"] == second
        for key in (first, second):
            assert horde.call("GET", f"/sharedkeys/{key}").json["style_only"] is True

    def test_styles_lose_a_freed_key(self, horde: Horde, painter: Account) -> None:
        key = shared_key(horde, painter)
        style = made(horde, painter, sharedkey=key)
        horde.call("PATCH", f"/sharedkeys/{key}", painter, json={"style_only": False})
        assert "shared_key" not in shown(horde, style, painter)

    def test_styles_lose_a_deleted_key(self, horde: Horde, painter: Account) -> None:
        key = shared_key(horde, painter)
        styles = [made(horde, painter, kind, sharedkey=key) for kind in KINDS]
        assert "shared_key" in shown(horde, styles[1], painter, "text")
        assert horde.call("DELETE", f"/sharedkeys/{key}", painter).json == {"message": "OK"}
        assert "shared_key" not in shown(horde, styles[0], painter)


class TestDeleting:
    @pytest.mark.parametrize("kind", KINDS)
    def test_owners_and_moderators(
        self, horde: Horde, painter: Account, moderator: Account, stranger: Account, kind: str
    ) -> None:
        for number, key in enumerate((painter, moderator)):
            style = made(horde, painter, kind, name=str(number))
            path = f"/styles/{kind}/{style}"
            assert_refused(horde.call("DELETE", path, "x" * 22), 401, "InvalidAPIKey")
            assert_refused(horde.call("DELETE", path, ANONYMOUS_KEY), 403, "StylesAnonForbidden")
            assert_refused(horde.call("DELETE", path, stranger), 403, "Forbidden")
            assert horde.call("DELETE", path, key).json == {"message": "OK"}
            for method in ("GET", "DELETE"):
                assert_refused(horde.call(method, path, key), 404, "StyleNotFound")
        assert scalar(horde.platform, "SELECT count(*) FROM styles") == 0

    def test_styles_outlive_a_wiped_account(self, horde: Horde, painter: Account, moderator: Account) -> None:
        key = shared_key(horde, painter)
        style = made(horde, painter, sharedkey=key)
        horde.call("DELETE", f"/users/{painter.id}", painter)
        change(horde.platform, "UPDATE users SET last_active = now() - interval '40 days'")
        change(horde.platform, "UPDATE user_roles SET granted = now() - interval '40 days'")
        assert horde.call("DELETE", f"/users/{painter.id}", moderator).status_code == 200
        found = shown(horde, style)
        assert found["creator"] == f"<wiped>#{painter.id}"
        assert "shared_key" not in found
        assert horde.call("DELETE", f"/styles/image/{style}", moderator).status_code == 200
