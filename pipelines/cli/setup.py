"""The commands ``statecast init`` and ``statecast doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from forecaster import durable
from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.settings import assignments, load_settings, written_with_set
from pipelines.storage import location, output_errors
from schemas.errors import ConfigError, EngineError

_EXAMPLES: dict[str, dict[str, object]] = {
    "weather": {"mlflow.model": "weather"},
    "flights": {
        "mlflow.model": "flights",
        "data.event_id": "event_id",
        "windows.aggregate": "sum",
        "windows.empty": "zero",
    },
}
"""Name of an example -> the settings that its data needs."""


def init(
    path: Annotated[
        Path, typer.Argument(parser=o.local_path, metavar="PATH", help="Job file to write.")
    ] = Path("statecast.toml"),
    example: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Write example data beside the job file, with the settings for it: weather (18 hourly "
            "series of 2013, with gaps) or flights (336,776 departures, irregular events).",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Write a job file with every setting, its default, and a comment that explains it.

    Example: statecast init --example weather, then statecast train -c statecast.toml
    """
    from pipelines.settings.job_file import commented_toml, load_config

    overrides: dict[str, object] = {}
    data = None
    if example is not None:
        if example not in _EXAMPLES:
            raise ConfigError(f"--example {example}: no such example; choose {' or '.join(_EXAMPLES)}")
        data = path.parent / f"{example}.parquet"
        overrides = {"data.paths": [str(data)], **_EXAMPLES[example]}
    assigned = assignments(settings)
    text = commented_toml(load_config(None, overrides | assigned, written_with_set(assigned)))
    for file in filter(None, (path, data)):
        if file.exists() and not force:
            raise ConfigError(f"{file} already exists: name another file, or give --force to replace it")
    if example is not None:
        from pipelines.examples.weather import write_example

        write_example(example, path.parent)
    with output_errors(f"{path}: cannot be written", fix="name another file"):
        durable.write_bytes(path, text.encode())
    out = Out(as_json)
    also = f" and {data}" if data else ""
    out.say(f"wrote {path}{also}; next: statecast train -c {path}" + ("" if data else " YOUR-DATA"))
    out.result({"config": str(path), "data": str(data) if data else None})


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Install Prism if it is missing.")] = False,
    output: o.Output = None,
    tracking_uri: o.Store = None,
    config: o.Config = None,
    settings: o.Set = None,
    as_json: o.Json = False,
) -> None:
    """Check the packages, the engines, the MLflow store and the output folder, and print how to fix faults.

    Without --fix, the command changes nothing. With --fix, it also installs Prism, the streaming engine, if
    Prism is missing: it downloads Prism, or builds it with Go.
    """
    job = load_settings(
        config,
        settings,
        mlflow__tracking_uri=tracking_uri,
        output__folder=output,
    )
    out = Out(as_json)
    from rich.markup import escape
    from rich.table import Table

    from pipelines.cli.doctor import diagnose

    if fix:
        from pipelines.runners.prism_binary import setup_prism

        with out.progress("looking for Prism", "places"):
            prism = setup_prism()
        out.say(f"Prism: {prism}")
    with out.progress("looking", "checks"):
        checks = diagnose(job.mlflow.tracking_uri.get_secret_value(), location(job.output.folder))
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[bold red]missing[/]"
        fix_note = f" [yellow]({escape(check.fix)})[/]" if check.fix else ""
        table.add_row(mark, check.name, escape(check.found) + fix_note)
    out.console.print(table)
    out.result({"checks": [asdict(check) for check in checks]})
    missing = [check for check in checks if not check.ok]
    if missing:
        raise EngineError(
            "; ".join(
                f"{check.name}: {check.found}" + (f" ({check.fix})" if check.fix else "") for check in missing
            )
        )
