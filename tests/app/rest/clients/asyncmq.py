"""The browser of who uses AsyncMQ's dashboard: pages, forms, and the little JSON that its scripts read."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import httpx2

__all__ = ["AsyncMQClient"]


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words += [data.strip()] if data.strip() else []


class AsyncMQClient:
    def __init__(self, http: httpx2.AsyncClient, mount: str = "/asyncmq") -> None:
        self._http = http
        self._mount = mount

    async def page(self, path: str) -> list[str]:
        """The words of a page."""
        answer = await self._http.get(self._mount + path, headers={"Accept": "text/html"})
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html"), path
        reader = _Words()
        reader.feed(answer.text)
        return reader.words

    async def send(self, path: str, **fields: Any) -> str:
        """Sends a form; where the browser is led."""
        answer = await self._http.post(self._mount + path, data=fields, headers={"Accept": "text/html"})
        assert answer.status_code in (302, 303), (path, answer.status_code)
        return str(answer.headers["location"])

    async def act(self, queue: str, id: str, action: str) -> dict[str, Any]:
        """What the buttons of one job do: the API of single jobs."""
        return (await self._http.post(f"{self._mount}/queues/{queue}/jobs/{id}/{action}")).json()  # type: ignore[no-any-return]

    async def history(self, query: str = "") -> list[dict[str, Any]]:
        answer = await self._http.get(f"{self._mount}/metrics/history{query}")
        assert list(answer.json()) == ["history"]
        return answer.json()["history"]  # type: ignore[no-any-return]

    async def audit(self, query: str = "") -> list[dict[str, Any]]:
        answer = await self._http.get(f"{self._mount}/audit{query}", headers={"Accept": "application/json"})
        return answer.json()["events"]  # type: ignore[no-any-return]
