"""What does `switchtower dev` show while it runs?

What its processes say, and below it one line of counts that moves.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any

from switchtower.cli.documents import QUEUE_COUNTS
from switchtower.cli.output import console, note, print_text, shown
from switchtower.errors import SwitchtowerError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["LiveLine"]

STATES = ("completed", "failed", "retrying", "active", "waiting", "scheduled", "blocked", "cancelled")
OPEN = ("retrying", "active", "waiting", "scheduled", "blocked")


class LiveLine:
    """`url` is the server's, `title` what the jobs are called; `quiet` leaves only the processes' own words."""

    def __init__(self, url: str, title: str, *, quiet: bool) -> None:
        self._url = url
        self._title = title
        self._quiet = quiet
        self._live: Any = None
        self._idle = True

    def line(self, source: str, text: str) -> None:
        """Shows one line that a process wrote."""
        text = f"{source:<6} │ {shown(text)}"
        if self._live is not None:
            self._live.console.print(text, soft_wrap=True)
        else:
            note(text)

    async def show(self) -> None:
        """Shows the counts until it is cancelled."""
        from switchtower.client import Client

        screen = console()
        with self._display(screen.is_terminal and not self._quiet) as self._live:
            try:
                async with (
                    Client(self._url) as client,
                    aclosing(client.subscribe(QUEUE_COUNTS, {"intervalMs": 500})) as stream,
                ):
                    async for data in stream:
                        if data is not None:
                            self._update(data["queueCounts"])
            except SwitchtowerError as error:
                self.line("dev", f"The counts cannot be shown: {error.message}")
            finally:
                await asyncio.sleep(0)
                live, self._live = self._live, None
                if live is not None:
                    live.stop()

    def _update(self, queues: list[dict[str, Any]]) -> None:
        counts = {state: sum(queue["counts"][state] for queue in queues) for state in STATES}
        if self._live is not None:
            self._live.update(self._render(counts))
            return
        idle = not any(counts[state] for state in OPEN)
        if idle and not self._idle and not self._quiet:
            print_text(f"   ▸ {self._title}  {self._summary(counts)}")
        self._idle = idle

    def _summary(self, counts: dict[str, int]) -> str:
        done = f"completed {counts['completed']}/{sum(counts.values())}"
        return "  ".join([done, *(f"{state} {counts[state]}" for state in STATES[1:] if counts[state])])

    def _render(self, counts: dict[str, int]) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        total = sum(counts.values())
        grid = Table.grid(padding=(0, 1))
        rest = "  ".join(f"{state} {counts[state]:,}" for state in STATES[1:] if counts[state])
        grid.add_row(
            Text(f"   ▸ {self._title}"),
            Text("completed"),
            ProgressBar(total=max(1, total), completed=counts["completed"], width=20),
            Text(f"{counts['completed']:,}/{total:,}"),
            Text(rest),
            Text("Ctrl-C stops", "dim"),
        )
        return grid

    def _display(self, live: bool) -> Any:
        if not live:
            return nullcontext()
        from rich.live import Live

        return Live(console=console(), refresh_per_second=5, transient=True)
