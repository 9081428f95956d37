"""Endpoints: how many deliveries one is given at once, and how one that does not answer is left alone."""

from __future__ import annotations

import pytest

from switchtower.endpoints import FAILURES, REST_SECONDS, Endpoints, host_of

A, B = "https://a.example/one", "https://b.example/"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_deliveries_to_one_host_share_its_room() -> None:
    endpoints = Endpoints(2)
    assert endpoints.room(A) == 2
    endpoints.begin(A)
    endpoints.begin("https://A.example/two?x=1")
    assert endpoints.room(A) == 0 and endpoints.room(B) == 2
    endpoints.end(A, answered=True)
    assert endpoints.room("https://a.example/three") == 1
    endpoints.end("https://a.example/two", answered=True)
    assert endpoints._known == {}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example/x", "https://a.example"),
        ("http://a.example/x", "http://a.example"),
        ("https://a.example:8443/", "https://a.example:8443"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_a_host_is_scheme_name_and_port(url: str, host: str) -> None:
    assert host_of(url) == host


def fail(endpoints: Endpoints, times: int, *, answered: bool | None = False) -> None:
    for _ in range(times):
        endpoints.begin(A)
        endpoints.end(A, answered=answered)


def test_one_that_does_not_answer_rests_and_is_tried_once() -> None:
    clock = Clock()
    endpoints = Endpoints(50, clock=clock)
    fail(endpoints, FAILURES - 1)
    assert endpoints.room(A) == 50 and endpoints.resting == []
    fail(endpoints, 1)
    assert endpoints.room(A) == 0 and endpoints.resting == ["https://a.example"] and endpoints.room(B) == 50
    clock.now += REST_SECONDS[0]
    assert endpoints.room(A) == 1
    endpoints.begin(A)
    assert endpoints.room(A) == 0
    endpoints.end(A, answered=False)
    assert endpoints.room(A) == 0
    clock.now += REST_SECONDS[0]
    assert endpoints.room(A) == 0, "twice as long"
    clock.now += REST_SECONDS[0]
    assert endpoints.room(A) == 1
    endpoints.begin(A)
    endpoints.end(A, answered=True)
    assert endpoints.room(A) == 50 and endpoints._known == {}


def test_the_rest_is_bounded() -> None:
    clock = Clock()
    endpoints = Endpoints(1, clock=clock)
    fail(endpoints, FAILURES)
    for _ in range(20):
        clock.now += REST_SECONDS[1]
        assert endpoints.room(A) == 1
        fail(endpoints, 1)
    clock.now += REST_SECONDS[1] - 0.1
    assert endpoints.room(A) == 0


def test_many_that_end_together_are_one_reason_to_rest() -> None:
    clock = Clock()
    endpoints = Endpoints(50, clock=clock)
    for _ in range(50):
        endpoints.begin(A)
    for _ in range(50):
        endpoints.end(A, answered=False)
    clock.now += REST_SECONDS[0]
    assert endpoints.room(A) == 1


def test_an_answer_ends_a_row_of_failures_and_a_cut_off_delivery_says_nothing() -> None:
    endpoints = Endpoints(5)
    fail(endpoints, FAILURES - 1)
    fail(endpoints, 5, answered=None)
    assert endpoints.room(A) == 5
    fail(endpoints, 1, answered=True)
    fail(endpoints, FAILURES - 1)
    assert endpoints.room(A) == 5
