"""Tests of the dashboard's page in headless Chromium: its contents, its updates, and its search."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.time.windows import Windows
from pipelines.dashboard.output_view import OutputView
from tests.browser import CHROMIUM, DRIVER, Browser, browser
from tests.fleets import START
from tests.pipelines.dashboard.conftest import NEW, OLD, backfill, fleet, serving, start_texts, write_rows

SERIES = 10_000

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run a headless Chromium, and yield its page."""
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def trace(page: Browser, name: str) -> dict[str, Any]:
    """Wait until a line of the chart is drawn, and return its times and values."""
    script = (
        "const chart = document.getElementById('chart');"
        f"const line = (chart.data ?? []).find((one) => one.name.startsWith({json.dumps(name)}));"
        "return line ? {x: line.x, y: line.y} : null"
    ).replace("one.name.startsWith", "(one.name ?? '').startsWith")
    found: dict[str, Any] = page.wait_until(lambda: page.run(script), lambda value: value is not None)
    return found


def rows_of_table(page: Browser, section: str) -> list[list[str]]:
    """Return the texts of the cells of each row of the table in a section, without the header row."""
    script = (
        f"const rows = [...document.querySelectorAll('#{section} tr:has(td)')];"
        "return rows.map((row) => [...row.cells].map((one) => one.innerText.split(/\\s+/).join(' ').trim()))"
    )
    found: list[list[str]] = page.run(script)
    return found


def search(page: Browser, text: str) -> list[str]:
    """Type a text into the search field, and return the lines of the search result."""
    page.run(
        f"const box = document.getElementById('search'); box.value = {json.dumps(text)};"
        "document.getElementById('found').replaceChildren();"
        "box.dispatchEvent(new Event('input'))"
    )
    read = "return [...document.querySelectorAll('#found li')].map((one) => one.innerText)"
    found: list[str] = page.wait_until(lambda: page.run(read), bool)
    return found


def test_the_page_updates_after_the_shown_output_folder_changes(
    page: Browser, output: Path, tmp_path: Path
) -> None:
    with serving(output) as url:
        page.open(f"{url}/#Gate%2010")
        text = page.wait_for("not running", "Gate 10", "Series with the most alarms", "yard")
        shown = OutputView(output).series("Gate 10")
        assert f"{fleet().values.size - 5 + 3:,}" in text  # the count includes 3 quarantined rows
        assert trace(page, "value") == {"x": shown["time"], "y": shown["value"]}
        fan = shown["fans"][0]
        expected = {"x": fan["time"], "y": fan["quantiles"]["q50"]}
        assert trace(page, f"forecast of {fan['issued_at'][:16]}") == expected

        counts = OutputView(output).fleet()
        reasons = [[one["reason"], str(one["rows"])] for one in counts["quarantine"]]
        assert rows_of_table(page, "quarantine") == reasons
        assert len(reasons) == 2
        (version, *scores) = rows_of_table(page, "versions")
        assert version == [f"{counts['models'][0]} in use"]
        assert [(cells[0], cells[3]) for cells in scores] == [
            (str(one["horizon"]), f"{100 * one['coverage']:.1f} %") for one in counts["versions"]
        ]

        backfill(write_rows(tmp_path / "few.csv", fleet(200)), output)
        last = start_texts(range(199, 200))
        page.wait_until(lambda: trace(page, "value")["x"][-1:], lambda x: x == last)

        shutil.rmtree(output)
        page.wait_for("absent", "does not exist")
    page.wait_for("away", "does not answer")


def test_the_dashboard_search_finds_one_of_10000_series(page: Browser, tmp_path: Path) -> None:
    ids = tuple(f"meter {number:05d}" for number in range(SERIES))
    values = np.arange(2 * SERIES, dtype=float).reshape(2, SERIES)
    backfill(write_rows(tmp_path / "many.csv", Windows(ids, START, values)), tmp_path / "out", ring=8)
    with serving(tmp_path / "out") as url:
        page.open(f"{url}/")
        page.wait_for("of 10,000 series are live")
        assert page.run("return document.getElementsByTagName('*').length") < 1000
        first, *found = search(page, "METER 0123")
        assert first == "10 of 10,000 series"
        assert found == [f"meter {number:05d}" for number in range(1230, 1240)]
        assert search(page, "meter")[0] == "10,000 of 10,000 series, the first 50 are shown"
        search(page, "meter 09876")
        page.run("document.querySelector('#found button').click()")
        last = [9876.0, SERIES + 9876.0]
        page.wait_until(lambda: trace(page, "value")["y"], lambda y: y == last)


def test_the_dashboard_page_draws_the_shadow_dashed(page: Browser, shadowed: Path) -> None:
    with serving(shadowed) as url:
        page.open(f"{url}/#a")
        shadow = OutputView(shadowed).series("a")["shadow_fans"][0]
        expected = {"x": shadow["time"], "y": shadow["quantiles"]["q50"]}
        assert trace(page, f"shadow's forecast of {shadow['issued_at'][:16]}") == expected
        dashes = page.run(
            "const named = document.getElementById('chart').data.filter((one) => one.name);"
            "return named.map((one) => [one.name, one.line?.dash])"
        )
        assert {dash for name, dash in dashes if name.startswith("shadow")} == {"dash"}
        versions = [cells for cells in rows_of_table(page, "versions") if len(cells) == 1]
        assert versions == [[f"{OLD.version} in use"], [f"{NEW.version} shadow"]]


def test_the_dashboard_page_fits_a_phone_in_dark_mode(finished: Path, page: Browser) -> None:
    page.emulate(390, 844, is_phone=True, is_dark=True)
    try:
        with serving(finished) as url:
            page.open(f"{url}/#gate%202")
            trace(page, "value")
            width, background, text = page.run(
                "const style = getComputedStyle(document.body);"
                "return [document.documentElement.scrollWidth, style.backgroundColor, style.color]"
            )
            assert width == 390, "the page is wider than the screen"
            brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (background, text)]
            assert brightness[0] < 100 < 600 < brightness[1]
            line, height = page.run(
                "const chart = document.getElementById('chart');"
                "const value = chart.data.find((one) => one.name === 'value');"
                "return [value.line.color, chart._fullLayout._size.h]"
            )
            assert line == "#e5e9f0"
            assert height > 180, "the legend covers the chart"
            ids = (
                "const cells = [...document.querySelectorAll('#alarms td:first-child')];"
                "return cells.map((one) => one.clientWidth)"
            )
            assert min(page.run(ids)) > 80
    finally:
        page.emulate(2000, 1100)
