"""Running several workers at once until all are done or one fails."""

from asyncio import TaskGroup
from collections.abc import Coroutine, Iterable
from typing import Any


async def run_all(workers: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run to the end of all. The first to fail cancels the others, and its error is raised as it is."""
    try:
        async with TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)
    except BaseExceptionGroup as failures:
        raise _first(failures) from None


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
