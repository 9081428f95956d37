"""Conveyor's dashboard API, as its document lists it."""

from __future__ import annotations

from typing import Any

import httpx2

__all__ = ["ConveyorClient", "ConveyorError"]


class ConveyorError(Exception):
    """The code and the message of `{"error": …}`, and its status."""

    def __init__(self, status: int, error: dict[str, str]) -> None:
        super().__init__(error["message"])
        self.status, self.code, self.message = status, error["code"], error["message"]


class ConveyorClient:
    def __init__(self, http: httpx2.AsyncClient, base_path: str = "") -> None:
        self._http = http
        self._base = f"{base_path}/api"

    async def envelope(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = await self._http.request(method, f"{self._base}{path}", json=body)
        if answer.is_error:
            raise ConveyorError(answer.status_code, answer.json()["error"])
        return answer.json()  # type: ignore[no-any-return]

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        return (await self.envelope(method, path, body))["data"]

    async def queues(self) -> list[dict[str, Any]]:
        return await self.ask("GET", "/queues")  # type: ignore[no-any-return]

    async def queue(self, name: str) -> dict[str, Any]:
        return await self.ask("GET", f"/queues/{name}")  # type: ignore[no-any-return]

    async def act(self, name: str, verb: str, body: Any = None) -> dict[str, Any]:
        """pause, resume, drain, clean, retry or promote."""
        return await self.ask("POST", f"/queues/{name}/{verb}", body)  # type: ignore[no-any-return]

    async def obliterate(self, name: str, query: str = "") -> dict[str, Any]:
        return await self.ask("DELETE", f"/queues/{name}{query}")  # type: ignore[no-any-return]

    async def jobs(self, name: str, query: str = "") -> dict[str, Any]:
        return await self.envelope("GET", f"/queues/{name}/jobs{query}")

    async def add(self, name: str, body: Any) -> dict[str, Any]:
        return await self.ask("POST", f"/queues/{name}/jobs", body)  # type: ignore[no-any-return]

    async def job(self, name: str, id: str) -> dict[str, Any]:
        return await self.ask("GET", f"/queues/{name}/jobs/{id}")  # type: ignore[no-any-return]

    async def children(self, name: str, id: str) -> list[dict[str, Any]]:
        return await self.ask("GET", f"/queues/{name}/jobs/{id}/children")  # type: ignore[no-any-return]

    async def act_on_job(self, name: str, id: str, verb: str) -> dict[str, Any]:
        """retry, promote or cancel."""
        return await self.ask("POST", f"/queues/{name}/jobs/{id}/{verb}")  # type: ignore[no-any-return]

    async def edit(self, name: str, id: str, body: Any) -> dict[str, Any]:
        return await self.ask("PATCH", f"/queues/{name}/jobs/{id}", body)  # type: ignore[no-any-return]

    async def remove(self, name: str, id: str) -> dict[str, Any]:
        return await self.ask("DELETE", f"/queues/{name}/jobs/{id}")  # type: ignore[no-any-return]

    async def read(self, path: str) -> Any:
        """groups, flows, search and metrics, which are read alone."""
        return await self.ask("GET", path)
