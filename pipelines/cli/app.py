"""The commands together, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Annotated

import typer

from pipelines.cli import cold_start, demo, evaluate, jobs, label, models, setup, state, train
from pipelines.cli.console import errors_to
from pipelines.workers import process
from schemas.errors import OutputError, StatecastError
from schemas.masking import masked

app = typer.Typer(
    name="statecast",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Forecasts fleets of time series as their data streams in.\n\n"
    "A recurrent network keeps a state for every series and moves it on by one step per window: "
    "[bold]train[/bold] it, [bold]backfill[/bold] history, hand the state over to a [bold]stream[/bold], "
    "and compare runs in the MLflow [bold]ui[/bold].",
    epilog="Begin with [bold]statecast demo[/bold]; or with your own series: [bold]statecast init[/bold], "
    "then [bold]statecast train -c statecast.toml[/bold]. Every command takes --help.\n\n"
    "Exit codes: 0 done, 1 a bug, 2 a setting, 3 an input file, 4 a model or store, 5 an engine, "
    "6 an output folder, 130 Ctrl-C, 143 SIGTERM. STATECAST_LOG=INFO shows what the libraries below say.",
)

_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "init": setup.init,
    "train": train.train,
    "backfill": jobs.backfill,
    "stream": jobs.stream,
    "cold-start": cold_start.cold_start,
    "evaluate": evaluate.evaluate,
    "label": label.label,
    "promote": models.promote,
    "ui": models.ui,
    "doctor": setup.doctor,
}
_TABLES: dict[str, Callable[..., None]] = {
    "show": state.show,
    "export": state.export,
    "import": state.import_,
}


def _offer(to: typer.Typer, commands: dict[str, Callable[..., None]]) -> None:
    """Adds commands; each one's docstring is its help, a line a paragraph, for the terminal to break."""
    for name, command in commands.items():
        paragraphs = (command.__doc__ or "").split("\n\n")
        to.command(name, help="\n\n".join(" ".join(part.split()) for part in paragraphs))(command)


def _help_unless_asked(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


_tables = typer.Typer(help=state.HELP, rich_markup_mode="rich")
_tables.callback(invoke_without_command=True)(_help_unless_asked)
_offer(_tables, _TABLES)
_offer(app, _COMMANDS)
app.add_typer(_tables, name="state")

_signalled: int = signal.SIGINT


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"statecast {version('statecast')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _begin(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    _help_unless_asked(context)


def main() -> None:
    """Runs the command line; never shows a stack trace for what a user can mend."""
    _quiet()
    process.use_again()
    signal.signal(signal.SIGTERM, _interrupt)
    code = run()
    if code > 128:
        # Whoever interrupts waits for the prompt, not for worker threads that finish their bundle.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Runs one command (that of ``sys.argv`` by default), tells its error in one line; its exit code."""
    try:
        code = app(arguments, prog_name="statecast", standalone_mode=False)
        if code == 128 + signal.SIGINT:  # what becomes of a KeyboardInterrupt inside typer
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except StatecastError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:  # `statecast ... | head`: nobody is left to read
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder that went away
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", OutputError.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # an option that is none; which class says so depends on typer
            return _fail(_usage(error), 2)
        if _log_level() != "ERROR":
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"a bug, please report it: {what} (STATECAST_LOG=DEBUG shows where)", 1)
    except BaseException as error:
        if "KeyboardInterrupt" in str(error):  # one that came in the midst of Polars, which panics then
            return _interrupted()
        raise


def _interrupted() -> int:
    errors_to(sys.stderr).print("interrupted", style="yellow")
    return 128 + _signalled


def _fail(line: str, code: int) -> int:
    errors_to(sys.stderr).print(
        f"error: {' '.join(masked(line).split())}",
        style="bold red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return code


def _usage(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "statecast"
    told: str = error.format_message()  # type: ignore[attr-defined]
    return f"{told.rstrip('.')}; see {command} --help"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does."""
    global _signalled
    _signalled = number
    raise KeyboardInterrupt


class _Masking(logging.Formatter):
    """Log lines without the passwords of URLs in them."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A stack trace, which only who asked for logs sees, without the passwords of URLs in it."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


def _log_level() -> str:
    return os.environ.get("STATECAST_LOG", "ERROR").upper()


def _quiet() -> None:
    """Libraries' own chatter stays off the screen unless somebody asks for it."""
    level = logging.getLevelNamesMapping().get(_log_level(), logging.ERROR)
    is_asked = level < logging.ERROR
    # Unasked, not even errors: Beam logs in full length what it raises, and its threads die aloud.
    logging.basicConfig(level=level if is_asked else logging.CRITICAL)
    logging.getLogger().handlers[0].setFormatter(_Masking("%(levelname)s %(name)s: %(message)s"))
    sys.excepthook = _show_bug
    if not is_asked:
        logging.getLogger().handlers[0].setLevel(logging.CRITICAL)
        threading.excepthook = lambda died: None
        if not sys.warnoptions:
            import warnings

            warnings.simplefilter("ignore")
