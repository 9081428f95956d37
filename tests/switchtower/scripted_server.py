"""A server that speaks GraphQL's transports and answers what the test tells it to: for the client's own behaviour."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.waiting import until

Answer = dict[str, Any] | Response
Message = dict[str, Any]


class ScriptedServer:
    """`answer` gets the body of each POST and returns the GraphQL result (or a whole response).

    Subscriptions are handed to the test through `subscribed`: pairs of the socket and the `subscribe` message.
    """

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.headers: list[dict[str, str]] = []
        self.sockets: list[WebSocket] = []
        self.subscribed: asyncio.Queue[tuple[WebSocket, Message]] = asyncio.Queue()
        self.completed: asyncio.Queue[str] = asyncio.Queue()
        self.answer: Callable[[Message], Answer] = lambda body: {"data": {}}
        self.refuse_with: int | None = None
        self.url = ""
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> None:
        app = Starlette(routes=[Route("/graphql", self._post, methods=["POST"]), WebSocketRoute("/graphql", self._ws)])
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        await until(lambda: bool(self._server and self._server.started))

    async def stop(self) -> None:
        assert self._server is not None and self._task is not None
        self._server.should_exit = True
        await self._task

    async def _post(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        answer = self.answer(body)
        if isinstance(answer, Response):
            return answer
        status = 200 if answer.get("data") is not None else 400
        return Response(json.dumps(answer), status, media_type="application/graphql-response+json")

    async def _ws(self, socket: WebSocket) -> None:
        self.headers.append(dict(socket.headers))
        await socket.accept("graphql-transport-ws")
        assert (await socket.receive_json())["type"] == "connection_init"
        if self.refuse_with is not None:
            await socket.close(self.refuse_with, "because")
            return
        await socket.send_json({"type": "connection_ack"})
        self.sockets.append(socket)
        with suppress(WebSocketDisconnect):
            while True:
                message = await socket.receive_json()
                if message["type"] == "subscribe":
                    self.subscribed.put_nowait((socket, message))
                elif message["type"] == "complete":
                    self.completed.put_nowait(message["id"])


@asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def push(socket: WebSocket, message: Message, data: Any) -> None:
    """Send one result of the subscription that `message` started."""
    await socket.send_json({"id": message["id"], "type": "next", "payload": {"data": data}})
