"""Dispatched's API, as its document lists it; errors are read as `error` and `data.message`, whatever happened."""

from __future__ import annotations

from typing import Any

import httpx2

__all__ = ["DispatchedClient", "DispatchedError"]


class DispatchedError(Exception):
    """The code and the message of a refusal."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{body['error']}: {body['data']['message']}")
        self.status = status
        self.code = body["error"]


class DispatchedClient:
    def __init__(self, http: httpx2.AsyncClient, key: str) -> None:
        self._http = http
        # Every request says that it is JSON, also one without a body, as a wrapper around `fetch` does.
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = await self._http.request(method, path, json=body, headers=self._headers)
        if answer.is_error:
            raise DispatchedError(answer.status_code, answer.json())
        return answer.json()  # type: ignore[no-any-return]

    async def dispatch(self, body: Any) -> dict[str, Any]:
        return await self._ask("POST", "/api/jobs/dispatch", body)

    async def job(self, id: str) -> dict[str, Any]:
        return await self._ask("GET", f"/api/jobs/{id}")

    async def cancel(self, id: str) -> dict[str, Any]:
        return await self._ask("DELETE", f"/api/jobs/{id}")

    async def update(self, id: str, scheduled_for: str | None) -> dict[str, Any]:
        return await self._ask("PATCH", f"/api/jobs/{id}", {"scheduledFor": scheduled_for})
