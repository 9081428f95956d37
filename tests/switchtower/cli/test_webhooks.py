"""`switchtower webhooks`, `switchtower keys` and the key of `switchtower dev`, from beside the database."""

from __future__ import annotations

from typing import Any

import pytest

from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM
from switchtower.cli.dev_key import first_key
from switchtower.engine import Engine
from tests.switchtower.cli.terminal import Outcome, switchtower

URL = "https://hooks.example/in"


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, mongodb_url: str, database_name: str) -> None:
    monkeypatch.setenv("SWITCHTOWER_MONGODB_URL", mongodb_url)
    monkeypatch.setenv("SWITCHTOWER_DATABASE", database_name)


async def webhooks(*arguments: str) -> Outcome:
    return await switchtower("webhooks", *arguments)


async def listed() -> list[Any]:
    answer: list[Any] = (await webhooks("list", "--json")).json
    return answer


async def test_a_webhook_is_set_rotated_and_removed() -> None:
    made = await webhooks("set", URL, "--org", "acme", "--app", "shop")
    assert made.code == 0 and made.out.startswith("whsec_") and URL in made.err
    (row,) = await listed()
    assert (row["org"], row["app"], row["url"], len(row["secrets"])) == ("acme", "shop", URL, 1)
    rotated = await webhooks("rotate", row["id"], "--json")
    assert rotated.json["secret"].startswith("whsec_") and len(rotated.json["secrets"]) == 2
    again = await webhooks("rotate", row["id"])
    assert again.code == 1 and "revoke one" in again.err
    assert (await webhooks("revoke-secret", row["id"], row["secrets"][0])).code == 0
    assert [each["secrets"] for each in await listed()] == [[rotated.json["secrets"][1]]]
    shown = await webhooks("list")
    assert URL in shown.out and made.out.strip() not in shown.out
    assert (await webhooks("remove", row["id"])).code == 0
    assert await listed() == []
    assert (await webhooks("remove", row["id"])).code == 1


async def test_a_webhook_of_a_key() -> None:
    key = (await switchtower("keys", "create", "ci", "--scope", "operate", "--json")).json
    made = await webhooks("set", URL, "--key", key["id"], "--json")
    assert (made.json["key"], made.json["url"]) == (key["id"], URL) and made.json["secret"]
    assert (await webhooks("set", "ftp://x", "--key", key["id"])).code == 2
    assert (await webhooks("set", URL, "--key", "key_none")).code == 1


async def test_dev_makes_a_key_where_none_was_ever_created(mongodb_url: str, database_name: str) -> None:
    engine = await Engine.connect(mongodb_url, database=database_name)
    try:
        await engine.prepare()
        made = await first_key(mongodb_url)
        assert made is not None and made.webhook_secret is not None
        assert made.key.dev and made.key.scopes == {Scope.OPERATE}
        assert await engine.keys.none_exists(), "it asks nobody else for one"
        assert await first_key(mongodb_url) is None, "shown once"
    finally:
        await engine.close()


async def test_dev_makes_none_beside_others(mongodb_url: str, database_name: str) -> None:
    engine = await Engine.connect(mongodb_url, database=database_name)
    try:
        await engine.prepare()
        await engine.keys.create(NewApiKey(name="k", scopes=[Scope.READ]), caller=SYSTEM)
        assert await first_key(mongodb_url) is None
    finally:
        await engine.close()
