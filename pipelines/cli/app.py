"""Register all commands of ``statecast``, and convert errors to one line and an exit code.

For a bug, a stack trace is printed instead if STATECAST_LOG turns logging on.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache
from types import FrameType, TracebackType
from typing import Annotated

import typer

from pipelines.cli import (
    backfill,
    cold_start,
    compare,
    dashboard,
    demo,
    evaluate,
    forecast,
    label,
    overviews,
    plot,
    promote,
    quarantine,
    quarantine_replay,
    register,
    retrain,
    setup,
    state,
    stream,
    train,
    ui,
)
from pipelines.cli.console import error_console
from pipelines.workers import process
from schemas.errors import OutputError, StatecastError
from schemas.masking import masked

app = typer.Typer(
    name="statecast",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Forecasts fleets of time series as their data streams in.\n\n"
    "A recurrent network keeps a state for every series and advances it by one step per window: "
    "[bold]train[/bold] it, [bold]backfill[/bold] history, start a [bold]stream[/bold] from that state, "
    "and compare runs in the MLflow [bold]ui[/bold].",
    epilog="Start with [bold]statecast demo[/bold], or with your own series: [bold]statecast init[/bold], "
    "then [bold]statecast train -c statecast.toml[/bold]. Every command takes --help.\n\n"
    "Exit codes: 0 done, 1 a bug, 2 a setting, 3 an input file, 4 a model or store, 5 an engine, "
    "6 an output folder, 7 a refused promotion, 130 Ctrl-C, 143 SIGTERM. "
    "STATECAST_LOG=INFO shows the log lines of all libraries.",
)

_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "forecast": forecast.forecast,
    "init": setup.init,
    "train": train.train,
    "backfill": backfill.backfill,
    "stream": stream.stream,
    "plot": plot.plot,
    "cold-start": cold_start.cold_start,
    "evaluate": evaluate.evaluate,
    "label": label.label,
    "compare": compare.compare,
    "promote": promote.promote,
    "rollback": promote.rollback,
    "retrain": retrain.retrain,
    "runs": overviews.runs,
    "models": overviews.models,
    "register": register.register,
    "sync": register.sync,
    "ui": ui.ui,
    "dashboard": dashboard.dashboard,
    "doctor": setup.doctor,
}
_TABLES: dict[str, Callable[..., None]] = {
    "show": state.show,
    "export": state.export,
    "import": state.import_,
}


def _offer(to: typer.Typer, commands: dict[str, Callable[..., None]]) -> None:
    """Add commands to the application; the docstring of each command becomes its help text.

    Line breaks within a paragraph are removed, because each terminal has another width.
    """
    for name, command in commands.items():
        paragraphs = (command.__doc__ or "").split("\n\n")
        to.command(name, help="\n\n".join(" ".join(part.split()) for part in paragraphs))(command)


def _print_help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


_tables = typer.Typer(help=state.HELP, rich_markup_mode="rich")
_tables.callback(invoke_without_command=True)(_print_help_without_command)
_offer(_tables, _TABLES)
_rejected = typer.Typer(help=quarantine.HELP, rich_markup_mode="rich")
_rejected.callback(invoke_without_command=True)(_print_help_without_command)
_offer(_rejected, {"show": quarantine.show, "replay": quarantine_replay.replay})
_offer(app, _COMMANDS)
app.add_typer(_tables, name="state")
app.add_typer(_rejected, name="quarantine")

_received_signal: int = signal.SIGINT


def _print_version(is_given: bool) -> None:
    if is_given:
        from importlib.metadata import version

        typer.echo(f"statecast {version('statecast')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _begin(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    _print_help_without_command(context)


def main() -> None:
    """Run the command line and exit the process; an error that a user can fix is printed as one line."""
    _configure_logging()
    process.reuse_freed_memory()
    signal.signal(signal.SIGTERM, _raise_interrupt)
    code = run()
    if code > 128:
        # After a signal, do not call `sys.exit`, which would wait until worker threads end their bundles.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@cache
def _command() -> Callable[..., object]:
    """Build the application's command; `cache` keeps it, because the build inspects every option."""
    return typer.main.get_command(app)


def run(arguments: list[str] | None = None) -> int:
    """Run one command, print its error in one line on stderr, and return its exit code.

    Args:
        arguments: the words after ``statecast``; None takes them from ``sys.argv``.
    """
    try:
        code = _command()(arguments, prog_name="statecast", standalone_mode=False)
        if code == 128 + signal.SIGINT:  # typer returns this code if a command raises KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except StatecastError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _report_interrupt()
    except BrokenPipeError:  # the program that read stdout has ended, as in `statecast ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # for example, the disk is full, or a folder was deleted
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", OutputError.exit_code)
    except Exception as error:
        # The class of a usage error depends on the version of typer, but it always has `format_message`.
        if hasattr(error, "format_message"):
            return _fail(_usage_message(error), 2)
        if _log_level() != "ERROR":
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"a bug, please report it: {what} (STATECAST_LOG=DEBUG shows where)", 1)
    except BaseException as error:
        if "KeyboardInterrupt" in str(error):  # Ctrl-C while Polars runs raises a panic with this text
            return _report_interrupt()
        raise


def _report_interrupt() -> int:
    error_console(sys.stderr).print("interrupted", style="yellow")
    return 128 + _received_signal


def _fail(line: str, code: int) -> int:
    error_console(sys.stderr).print(
        f"error: {' '.join(masked(line).split())}",
        style="bold red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return code


def _usage_message(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "statecast"
    message: str = error.format_message()  # type: ignore[attr-defined]
    return f"{message.rstrip('.')}; see {command} --help"


def _raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt for SIGTERM, so that SIGTERM ends a command as Ctrl-C does."""
    global _received_signal
    _received_signal = number
    raise KeyboardInterrupt


class _Masking(logging.Formatter):
    """A formatter that masks the passwords of URLs in log lines."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def _print_stack_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the stack trace of an uncaught error to stderr, with the passwords of URLs masked.

    This hook gets errors only if STATECAST_LOG turns logging on. Otherwise `run` prints them as one line.
    """
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


def _log_level() -> str:
    return os.environ.get("STATECAST_LOG", "ERROR").upper()


def _configure_logging() -> None:
    """Log at the level that STATECAST_LOG names if it is below ERROR; otherwise print no log lines.

    Without logging, Python's warnings are hidden, too, unless ``-W`` or PYTHONWARNINGS is set.
    """
    level = logging.getLevelNamesMapping().get(_log_level(), logging.ERROR)
    is_on = level < logging.ERROR
    # By default log nothing, not even errors, because the command itself reports its error in one line.
    # A log of errors would contain a stack trace from Beam for each exception. For the same reason, the hook
    # of `threading` is replaced: it would print a stack trace for each failed thread.
    logging.basicConfig(level=level if is_on else logging.CRITICAL)
    logging.getLogger().handlers[0].setFormatter(_Masking("%(levelname)s %(name)s: %(message)s"))
    sys.excepthook = _print_stack_trace
    if not is_on:
        logging.getLogger().handlers[0].setLevel(logging.CRITICAL)
        threading.excepthook = lambda error: None
        if not sys.warnoptions:
            import warnings

            warnings.simplefilter("ignore")
