"""The command line: the composition root, one function a command.

Exit codes: 0 done, 1 failed or not ready, 2 bad usage or configuration (design page, section 6). With ``--json`` a
command prints one JSON document on standard output; logs always go to standard error.

Each function imports what it needs itself: loading all commands takes several times as long as starting the worker.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from replicator import __version__
from replicator.errors import ConfigurationError, ReplicatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from replicator.config import Settings

    Work = Callable[[Settings], Coroutine[Any, Any, int]]

app = typer.Typer(
    name="replicator",
    help="Moves a live Postgres database to another server with near-zero downtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DONE, FAILED, MISUSED = 0, 1, 2

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


class _WithSettings(TyperCommand):
    """A command whose help ends with all settings."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  # typer's own copy of click has them
        """Look at the settings only now: most calls of the program ask for no help."""
        from replicator.config import Settings

        self.epilog = "\b\nSettings, from the environment:\n" + "\n".join(Settings.descriptions())
        super().format_epilog(ctx, formatter)


# --- running a command ------------------------------------------------------------------------------------------------


def _execute(work: Work, *, as_json: bool, when_stopped: int = FAILED, log_level: str = "warning") -> NoReturn:
    """Read the settings, run, and exit. SIGTERM and SIGINT cancel the work, which cleans up after itself.

    ``log_level`` is what is logged unless REPLICATOR_LOG_LEVEL says otherwise: a command prints what it does.
    """
    from replicator.config import load_settings
    from replicator.logs import configure_logs

    try:
        settings = load_settings()
        configure_logs(settings.log_format, settings.log_level or log_level)
        code = asyncio.run(_until_signal(work(settings), when_stopped))
    except ReplicatorError as error:
        tell(error, as_json=as_json)
        code = MISUSED if isinstance(error, ConfigurationError) else FAILED
    raise typer.Exit(code)


async def _until_signal(work: Coroutine[Any, Any, int], when_stopped: int) -> int:
    import structlog

    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        structlog.get_logger(__name__).info("stopped by a signal")
        return when_stopped


def tell(error: ReplicatorError, *, as_json: bool) -> None:
    """A line for each thing that is wrong: which side, what, and the remedy."""
    if as_json:
        document = [{"side": side.value, "message": what, "remedy": remedy} for side, what, remedy in error.reasons]
        _print_json({"errors": document})
    _say((f"error: {side.value}: {message} — {remedy}" for side, message, remedy in error.reasons), err=True)


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, default=str))


# --- commands ---------------------------------------------------------------------------------------------------------


@app.command("check")
def check_command(as_json: Json = False) -> None:
    """Preflight: list what stands in the way of a migration, each with its remedy. Changes nothing."""
    from replicator.check import blocking, check
    from replicator.check.view import render
    from replicator.terminal import console

    async def work(settings: Settings) -> int:
        findings = await check(settings)
        if as_json:
            _print_json({"ready": not blocking(findings), "findings": [finding.to_json() for finding in findings]})
        else:
            console().print(render(findings))
        return FAILED if blocking(findings) else DONE

    _execute(work, as_json=as_json)


@app.command("run", cls=_WithSettings)
def run_command(as_json: Json = False) -> None:
    """The worker: bootstraps if needed, streams, resumes after any stop. SIGTERM stops it cleanly."""
    from replicator import worker

    async def work(settings: Settings) -> int:
        try:
            await worker.run(settings)
        finally:
            if as_json and _is_stopping():
                _print_json({"result": "stopped"})
        return DONE

    _execute(work, as_json=as_json, when_stopped=DONE, log_level="info")


def _is_stopping() -> bool:
    """Whether a signal ended the work, not an error, which is told elsewhere."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@app.command("bootstrap")
def bootstrap_command(as_json: Json = False) -> None:
    """Copy schema and rows, build keys and indexes, and stop where streaming would begin."""
    from replicator import worker

    async def work(settings: Settings) -> int:
        await worker.run(settings, stream=False)
        if as_json:
            _print_json({"result": "ok"})
        return DONE

    _execute(work, as_json=as_json, log_level="info")


@app.command("status")
def status_command(
    as_json: Json = False,
    watching: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl-C.")] = False,
) -> None:
    """Phase, lag in bytes and seconds, tables, slot and worker."""
    if as_json and watching:
        raise typer.BadParameter("--json prints one document, --watch goes on showing: use one of them")
    from replicator.status import read_status, render, watch
    from replicator.terminal import console

    out = console()

    async def work(settings: Settings) -> int:
        if watching:
            await watch(settings, out)
            return DONE
        status = await read_status(settings)
        if as_json:
            _print_json(status.to_json())
        else:
            out.print(render(status))
        return DONE if status.healthy else FAILED

    _execute(work, as_json=as_json, when_stopped=DONE)


@app.command("cutover")
def cutover_command(
    as_json: Json = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Do all but the fence, and undo it.")] = False,
    aborting: Annotated[bool, typer.Option("--abort", help="Undo a cutover before its point of no return.")] = False,
    omit_failing: Annotated[
        bool, typer.Option("--omit-failing", help="Leave out what the rehearsal showed cannot be made on the target.")
    ] = False,
) -> None:
    """Switch: fence writes on the source, drain, finish the target, report the downtime."""
    from replicator.cutover import abort, cutover

    async def work(settings: Settings) -> int:
        failed = False
        if aborting:
            await abort(settings)
            document: dict[str, Any] = {"result": "aborted"}
        else:
            report = await cutover(settings, _tell_progress, omit_failing=omit_failing, rehearse=rehearse)
            document = report.to_json()
            failed = bool(report.unfinished)
            if not as_json:
                _say(report.lines(), err=False)
        if as_json:
            _print_json(document)
        return FAILED if failed else DONE

    _execute(work, as_json=as_json)


def _tell_progress(line: str) -> None:
    """Progress goes to standard error: standard output is for the result."""
    _say([line], err=True)


def _say(lines: Iterable[str], *, err: bool) -> None:
    from replicator.logs import printable

    for line in lines:
        typer.echo(printable(line), err=err)


@app.command("cleanup")
def cleanup_command(as_json: Json = False) -> None:
    """Remove slot, publications, fence and control tables; the data stays."""
    from replicator.cleanup import cleanup

    async def work(settings: Settings) -> int:
        removed = await cleanup(settings)
        if as_json:
            _print_json({"removed": removed})
        else:
            _say(removed or ["nothing to remove"], err=False)
        return DONE

    _execute(work, as_json=as_json)


@app.command("demo")
def demo_command(
    seconds: Annotated[float, typer.Option(min=0, help="Seconds of streaming before the cutover.")] = 15,
    rate: Annotated[float, typer.Option(min=1, help="Transactions a second of the writers.")] = 200,
    rows: Annotated[int, typer.Option(min=1, help="Rows before the migration begins.")] = 50_000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave both servers up and print their URLs.")] = False,
    as_json: Json = False,
) -> None:
    """The whole migration on two embedded servers under live writes; exit 0 only if nothing was lost."""
    from replicator.demo.run import DemoOptions, run_demo
    from replicator.logs import configure_logs

    async def work() -> int:
        report = await run_demo(options)
        if as_json:
            _print_json(report.to_json())
        return DONE if report.ok else FAILED

    configure_logs("auto", "warning")
    options = DemoOptions(seconds=seconds, rate=rate, rows=rows, keep=keep, json=as_json)
    code = FAILED
    try:
        code = asyncio.run(_until_signal(work(), FAILED))
    except ReplicatorError as error:
        tell(error, as_json=as_json)
    raise typer.Exit(code)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and whether the hot path is compiled.")
    ] = False,
) -> None:
    if version:
        from replicator.compiled import describe

        typer.echo(f"{__version__} ({describe()})")
        raise typer.Exit(DONE)


def main() -> None:
    """The console script. Until a command has begun, which takes a moment, Ctrl-C ends it without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _spare_the_collector()
    app()


def _spare_the_collector() -> None:
    """Imports leave nothing to collect, nor do changes, which come by the million and hold no cycles.

    Looking for some in them costs a seventh of the worker's time.
    """
    gc.set_threshold(100_000, 50, 100)
