"""Dispatch's admin API, as its document lists it."""

from __future__ import annotations

from typing import Any

import httpx2

__all__ = ["ApiError", "DispatchClient"]


class ApiError(Exception):
    """What `{"error": …}` says, and its status."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(status, error)
        self.status = status
        self.error = error


class DispatchClient:
    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def _ask(self, method: str, path: str, status: int = 200) -> Any:
        answer = await self._http.request(method, path)
        if answer.is_error:
            raise ApiError(answer.status_code, answer.json()["error"])
        assert answer.status_code == status, (method, path, answer.status_code)
        return answer.json() if status != 204 else answer.content

    async def jobs(self, query: str = "") -> list[dict[str, Any]]:
        return await self._ask("GET", f"/v1/jobs{query}")  # type: ignore[no-any-return]

    async def job(self, id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/v1/jobs/{id}")  # type: ignore[no-any-return]

    async def cancel(self, id: str) -> None:
        assert await self._ask("POST", f"/v1/jobs/{id}/cancel", 204) == b""

    async def counts(self) -> dict[str, int]:
        return await self._ask("GET", "/v1/jobs/counts")  # type: ignore[no-any-return]

    async def workflows(self) -> list[str]:
        return (await self._ask("GET", "/v1/workflows"))["names"]  # type: ignore[no-any-return]

    async def runs(self, query: str = "") -> list[dict[str, Any]]:
        return await self._ask("GET", f"/v1/workflows/runs{query}")  # type: ignore[no-any-return]

    async def run(self, id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/v1/workflows/runs/{id}")  # type: ignore[no-any-return]

    async def dlq(self, query: str = "") -> list[dict[str, Any]]:
        return await self._ask("GET", f"/v1/dlq{query}")  # type: ignore[no-any-return]

    async def entry(self, id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/v1/dlq/{id}")  # type: ignore[no-any-return]

    async def replay(self, id: str) -> dict[str, Any]:
        return await self._ask("POST", f"/v1/dlq/{id}/replay", 201)  # type: ignore[no-any-return]

    async def purge(self) -> int:
        return int((await self._ask("POST", "/v1/dlq/purge"))["purged"])

    async def dlq_count(self) -> int:
        return int((await self._ask("GET", "/v1/dlq/count"))["count"])

    async def crons(self, query: str = "") -> list[dict[str, Any]]:
        return await self._ask("GET", f"/v1/crons{query}")  # type: ignore[no-any-return]

    async def cron(self, id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/v1/crons/{id}")  # type: ignore[no-any-return]

    async def switch(self, id: str, verb: str) -> dict[str, Any]:
        return await self._ask("POST", f"/v1/crons/{id}/{verb}")  # type: ignore[no-any-return]

    async def delete_cron(self, id: str) -> None:
        assert await self._ask("DELETE", f"/v1/crons/{id}", 204) == b""

    async def stats(self) -> dict[str, Any]:
        return await self._ask("GET", "/v1/stats")  # type: ignore[no-any-return]
