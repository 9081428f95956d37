"""A form whose content is refused is shown again as it was filled in, with what is wrong beside the field."""

from __future__ import annotations

import re
from html import unescape

import pytest

from switchtower.jobs import NewJob
from tests.app.rest.conftest import Server
from tests.app.rest.test_asyncmq_browsers import check_markup
from tests.app.rest.test_dashboard import FORM, ids, post
from tests.conformance.situations import CALLER

CRON = {"action": "update", "name": "nightly", "schedule": "0 3 * * *", "task": "clean", "payload": "{}"}
REFUSED = [
    ("/enqueue", {"name": "x", "payload": '{"a": '}, "payload", "Is not JSON"),
    ("/enqueue", {"name": "x", "payload": "1", "delay": "soon"}, "delay", "Must be a whole number"),
    ("/enqueue", {"name": "x", "delay": "9" * 14}, "delay", "Must"),
    ("/enqueue", {"name": "", "payload": "1"}, "name", "Must not be empty"),
    ("/enqueue", {"name": "x", "queue": "a/b"}, "queue", "Must not contain"),
    ("/enqueue", {"name": "x", "max_attempts": "-1"}, "max_attempts", "Must be a whole"),
    ("/crons/new", CRON | {"schedule": "99 * * * *"}, "schedule", "99"),
    ("/crons/new", CRON | {"schedule": "every soon"}, "schedule", "is not a duration"),
    ("/crons/new", CRON | {"timezone": "Mars"}, "timezone", "is not a time zone"),
    ("/crons/new", CRON | {"task": ""}, "task", "Must not be empty"),
    ("{/crons}", CRON | {"payload": "nope"}, "payload", "Is not JSON"),
    (
        "{/jobs}/edit",
        {"as": "same", "payload": "NaN", "priority": "3", "queue": "q"},
        "payload",
        "JSON",
    ),
    ("{/jobs}/edit", {"as": "new", "payload": "1", "priority": "x", "queue": "q"}, "priority", "whole"),
    ("/keys", {"name": "ops"}, "scope", "Name at least one"),
    ("/keys", {"name": "ops", "scope": "read", "days": "0"}, "days", "Must be between"),
    (
        "/queues/q/limits",
        {"concurrency": "many", "starts": "3"},
        "concurrency",
        "Must be a whole number",
    ),
    ("/queues/q/limits", {"starts": "3"}, "starts", "And per_seconds"),
    ("/queues/q/limits", {"per_group": "-1"}, "per_group", "Must be between"),
    ("/queues/q/remove", {"action": "drain"}, "confirmed", "Must be ticked"),
    (
        "/queues/q/remove",
        {"action": "clean", "hours": "x", "confirmed": "yes"},
        "hours",
        "Must be a whole number",
    ),
]


def _tag(html: str, id: str) -> str:
    found = re.search(rf'<(?:input|textarea|select|fieldset)[^>]*\sid="{id}"[^>]*>', html)
    assert found is not None, id
    return found[0]


@pytest.mark.parametrize(("target", "sent", "field", "said"), REFUSED)
async def test_a_refused_form_comes_back_filled_in(
    server: Server, target: str, sent: dict[str, str], field: str, said: str
) -> None:
    made = await ids(server)
    for name, of in made.items():
        target = target.replace(f"{{{name}}}", f"{name}/{of}")
    answer = await post(server, target, sent)
    html = answer.body.decode()
    assert answer.status == 400 and 'role="alert"' in html, html
    wrong = _tag(html, field)
    assert 'aria-invalid="true"' in wrong and re.search(rf'aria-describedby="{field}-wrong[ "]', wrong)
    beside = re.search(rf'<p class="error" id="{field}-wrong">(.*?)</p>', html, re.S)
    assert beside is not None and said in unescape(beside[1])
    assert html.count("aria-invalid") == 1 and f'href="#{field}"' in html
    # What was typed is still there, in this form and in no other of the page.
    for name, value in sent.items():
        if name == "payload":
            shown = re.search(r'<textarea id="payload"[^>]*>\n?(.*?)</textarea>', html, re.S)
            assert shown is not None and unescape(shown[1]) == value
        elif name in ("action", "as", "confirmed", "scope") or (name == "queue" and "/edit" in target):
            continue
        elif "<select" not in _tag(html, name):
            assert f'value="{value}"' in _tag(html, name), name
    if sent.get("scope"):
        assert "checked" in _tag(html, f"scope-{sent['scope']}")
    check_markup(html)


async def test_a_refused_form_does_nothing(server: Server) -> None:
    before = await server.engine.jobs.counts(caller=CALLER)
    await post(server, "/enqueue", {"name": "x", "payload": "{"})
    await post(server, "/crons/new", CRON | {"schedule": "99 * * * *"})
    assert await server.engine.jobs.counts(caller=CALLER) == before
    assert (await server.engine.crons.count(caller=CALLER)).value == 0


async def test_a_name_that_is_taken_keeps_the_form(server: Server) -> None:
    assert (await post(server, "/crons/new", CRON)).status == 303
    answer = await post(server, "/crons/new", CRON | {"queue": "elsewhere"})
    assert answer.status == 409 and 'value="elsewhere"' in answer.body.decode() and "nightly" in answer.body.decode()


async def test_programs_get_no_page(server: Server) -> None:
    answer = await server.ask("POST", "/enqueue", body=b"name=", content_type=FORM, accept="application/json")
    assert (answer.status, answer.json["ok"]) == (400, False)


async def test_what_was_sent_is_text_in_the_form_again(server: Server) -> None:
    job = (
        await server.engine.jobs.enqueue(NewJob(name="w", queue="q", payload={"token": "sesame"}), caller=CALLER)
    ).job
    text = '"><script>hit()</script></textarea><img src=x>'
    for target, sent in (
        ("/enqueue", {"name": text, "payload": text, "tags": text, "delay": "x"}),
        (f"/jobs/{job.id}/edit", {"queue": "q", "payload": text, "tags": text}),
        ("/queues/q/limits", {"concurrency": text}),
        ("/keys", {"name": text, "org": text}),
        ("/crons/new", {"name": text, "schedule": text, "task": text, "payload": text, "overlap": text}),
    ):
        answer = await post(server, target, sent)
        html = answer.body.decode()
        assert answer.status == 400 and "sesame" not in html, target
        check_markup(html)
    # A queue that the form only claims leads to no page: then the refusal is one by itself.
    answer = await post(server, f"/jobs/{job.id}/edit", {"queue": "../..", "payload": "{"})
    assert answer.status == 400 and "<textarea" not in answer.body.decode()
