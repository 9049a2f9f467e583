"""Check README and docs/: run their Python code, parse their commands and job files, and follow their links.

Also check that the pages list every law test, exit code and metric.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
import shlex
import shutil
import subprocess
import tomllib
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from pipelines.cli import settings
from pipelines.cli.app import app
from schemas import errors
from tests.forked import ForkedProcess

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page, and the output that the page shows for it, if any."""

    where: str
    kind: str
    text: str
    output: str | None


def blocks(kind: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        fenced = list(_FENCED.finditer(text))
        for block, after in zip(fenced, [*fenced[1:], None], strict=False):
            follows = after and not text[block.end() : after.start()].strip()
            output = after[2] if after and follows and after[1] == "text output" else None
            where = f"{page.name}:{text.count(chr(10), 0, block.start()) + 1}"
            found.append(Block(where, block[1], block[2], output))
    return [block for block in found if block.kind == kind]


def commands() -> list[tuple[str, str]]:
    """Return the place and the text of commands in the docs.

    These are all lines of ``sh`` code blocks, and ``statecast`` and ``make`` commands with arguments in
    inline code. The place is the page; for a line of a code block, it also has the line of the block.
    """
    shown = [(b.where, line) for b in blocks("sh") for line in b.text.splitlines()]
    for page in PAGES:
        prose = _FENCED.sub("", page.read_text())
        shown += [(page.name, code) for code in re.findall(r"`((?:statecast|make) [^`]+)`", prose)]
    return shown


def by_place(block: Block) -> str:
    return block.where


# --- tests that run the Python code of the docs


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the pages assume: data, a tiny model in MLflow, outputs."""
    from forecaster import Forecaster, NetworkConfig, Registry, WindowConfig
    from pipelines import BackfillJob, Columns, Input, run_backfill
    from pipelines.examples import weather as examples

    folder = tmp_path_factory.mktemp("desk")
    weather = examples.weather().filter(pl.col("timestamp") < pl.datetime(2013, 1, 5, time_zone="UTC"))
    weather.write_parquet(folder / "weather.parquet")
    (readings,) = blocks("csv")
    (folder / "readings.csv").write_text(readings.text)
    tiny = Forecaster.untrained(NetworkConfig(hidden=8, layers=1, horizon=3), WindowConfig())
    with Registry(f"sqlite:///{folder}/mlflow.db").start_run("tiny", {}) as run:
        run.log_model(tiny, "weather", weather.head(3))
        run.name_first_version("weather", "champion", "the pages load it by its name")
    for file, output in (("weather.parquet", "out"), ("readings.csv", "read")):
        job = BackfillJob(tiny, (str(folder / file),), Input(Columns()), folder / output, shards=2)
        run_backfill(replace(job, max_quarantined=1))
    return folder


@pytest.fixture
def copied_desk(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy `desk`, make the copy the working folder, and return the copy."""
    copy = tmp_path / "desk"
    shutil.copytree(desk, copy)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copy


@pytest.mark.parametrize("block", blocks("python"), ids=by_place)
def test_every_python_block_of_the_docs_prints_the_shown_output(block: Block, copied_desk: Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        # Ignore all warnings: pytest would raise even a library's warning as an error.
        warnings.simplefilter("ignore")
        exec(compile(block.text, block.where, "exec"), {"__name__": "__main__"})
    if block.output is not None:
        assert printed.getvalue() == block.output


@pytest.mark.parametrize("package", ["schemas", "forecaster", "pipelines"])
def test_the_examples_in_package_docstrings_run(package: str) -> None:
    ran = doctest.testmod(importlib.import_module(package))
    assert ran.failed == 0
    assert package != "schemas" or ran.attempted


# --- commands and job files of the docs, which are parsed


@pytest.mark.parametrize(("where", "line"), commands())
def test_every_statecast_command_in_the_docs_can_be_parsed(where: str, line: str) -> None:
    from typer.main import get_command

    program, *arguments = shlex.split(line)
    if program == "make" and arguments:
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), where
    if program != "statecast" or arguments[0].startswith("-"):
        return
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    given = command.make_context(name, arguments).params
    settings.load_settings(None, list(given.get("settings") or ()))


@pytest.mark.parametrize("block", blocks("toml"), ids=by_place)
def test_every_job_file_in_the_docs_can_be_loaded(block: Block, tmp_path: Path) -> None:
    from pipelines import load_config

    file = tmp_path / "job.toml"
    file.write_text(block.text)
    assert load_config(file).model_dump(exclude_unset=True).keys() == tomllib.loads(block.text).keys()


# --- links and pictures of the docs, the docs site, and lists in the docs that must be complete


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_in_the_docs_lead_to_existing_files(page: Path) -> None:
    prose = _FENCED.sub("", page.read_text())
    links = re.findall(r"\]\(([^)#\s]+)", prose)
    assert links
    for link in links:
        assert "://" in link or (page.parent / link).exists(), link


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").iterdir()), ids=lambda p: p.name)
def test_every_docs_picture_is_used_and_svgs_have_viewboxes(picture: Path) -> None:
    assert any(f"images/{picture.name})" in page.read_text() for page in PAGES)
    if picture.suffix == ".svg":
        assert ET.parse(picture).getroot().get("viewBox")


# The cells of the notebook run with six weeks of weather here, but with three months in `make docs`.
BUILD_SITE = """
import sys
from datetime import UTC, datetime
import polars as pl
from pipelines.examples import weather
from sphinx.cmd.build import main
later = weather.weather().filter(pl.col("timestamp") >= datetime(2013, 2, 18, tzinfo=UTC))
weather.weather = lambda: later
sys.exit(main(sys.argv[1:]))
"""


def test_the_docs_site_builds_without_a_warning(tmp_path: Path) -> None:
    options = ("-q", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path))
    build = ForkedProcess(["-c", BUILD_SITE, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = build.communicate(timeout=300)
    assert build.returncode == 0, errors
    assert "forecaster.advance" in (tmp_path / "reference.html").read_text()
    notebook = (tmp_path / "notebook.html").read_text()
    assert notebook.count("<svg ") >= 4, "the cells of the notebook draw four figures"
    assert "seasonal naive" in notebook


def test_the_architecture_page_links_every_law_test() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for law in (ROOT / "tests" / "laws").glob("test_*.py"):
        assert f"(../tests/laws/{law.name})" in page, law.name


def test_the_guide_lists_the_exit_code_of_every_error() -> None:
    codes = set(re.findall(r"^\| (\d+)", (ROOT / "docs" / "guide.md").read_text(), re.MULTILINE))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {str(kind.exit_code) for kind in kinds if issubclass(kind, errors.StatecastError)} <= codes


def test_every_statecast_command_has_a_json_option() -> None:
    from typer.main import get_command

    groups: list[Any] = [get_command(app)]
    while groups:
        for command in groups.pop().commands.values():
            if hasattr(command, "commands"):
                groups.append(command)
            else:
                assert any("--json" in parameter.opts for parameter in command.params), command.name


def test_the_metrics_page_lists_every_metric() -> None:
    from pipelines.sinks.latency import Histogram
    from pipelines.sinks.numbers import JobNumbers
    from pipelines.sinks.prometheus import metrics

    page = (ROOT / "docs" / "metrics.md").read_text()
    once = Histogram().add(1.0)
    numbers = JobNumbers(watermark_us=0, latency=once, window_latency=once)
    names = [*numbers.as_json(0.0), *(metric.name for metric in metrics(numbers, 0.0))]
    assert [name for name in names if f"`{name}`" not in page and f"`{name}_total`" not in page] == []
