"""The command, killed at one call of one of its functions. To be run as a program, with the product as it is.

    python dying.py MODULE:FUNCTION before|after CALL ARGUMENTS-OF-REPLICATOR…

It wraps the function, wherever the product has imported it, then runs the command.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


class Point:
    """The call that must not come (``before``), or not return (``after``)."""

    def __init__(self, moment: str, call: int) -> None:
        self._moment = moment
        self._left = call

    def began(self) -> None:
        self._left -= 1
        self._die("before")

    def ended(self) -> None:
        self._die("after")

    def _die(self, moment: str) -> None:
        if self._moment == moment and self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def wrapped(function: Callable[..., Any], point: Point) -> Callable[..., Any]:
    """The same function, which dies at ``point``."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*arguments: Any, **named: Any) -> Any:
            point.began()
            result = await function(*arguments, **named)
            point.ended()
            return result

        return waiting

    @functools.wraps(function)
    def direct(*arguments: Any, **named: Any) -> Any:
        point.began()
        result = function(*arguments, **named)
        point.ended()
        return result

    return direct


def owner_and_name(place: str) -> tuple[Any, str]:
    """Where the function is that ``place`` names: ``module:function`` or ``module:Class.function``."""
    module, _, path = place.partition(":")
    *classes, name = path.split(".")
    return functools.reduce(getattr, classes, import_module(module)), name


def arm(place: str, point: Point) -> None:
    """Wrap the function that ``place`` names."""
    owner, name = owner_and_name(place)
    original = getattr(owner, name)
    imported = [found for found in sys.modules.values() if vars(found).get(name) is original]
    for found in [owner] if inspect.isclass(owner) else imported:
        setattr(found, name, wrapped(original, point))


if __name__ == "__main__":
    from replicator.cli import main

    where, when, which, *sys.argv[1:] = sys.argv[1:]
    arm(where, Point(when, int(which)))
    main()
