"""When tables that are ready may be changed, as the bootstrap knows it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Window:
    """Open while the bootstrap only copies, and makes the keys of what it has copied.

    Outside of it, the bootstrap may rename, widen or empty tables that are ready, or ask for a snapshot to copy them
    again: then nothing may be applied.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.refused = False
        """Whether the target has refused a change: then all of them wait."""
        self.moved = asyncio.Event()
        """Set when it opens or closes, and by whoever wants the other side to look."""
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The bootstrap's side; it goes on when nothing is applied any more."""
        self._set(is_open=True)
        try:
            yield
        finally:
            self._set(is_open=False)
            await self._quiet.wait()

    def enter(self) -> bool:
        """The stream's side: it applies from here on, if it may."""
        if self.is_open and not self.refused:
            self._quiet.clear()
        return self.is_used

    def leave(self) -> None:
        """The stream's side: it applies nothing any more."""
        self._quiet.set()

    @property
    def is_used(self) -> bool:
        """Whether the stream applies."""
        return not self._quiet.is_set()

    def _set(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self.moved.set()
