"""Tests of reading text files from spreadsheet programs: decimal commas, thousands signs, encodings."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.settings.data_config import DataConfig
from pipelines.sources.files import tables
from pipelines.sources.files import validated_rows as files
from pipelines.sources.files.decimals import Decimals
from pipelines.sources.files.tables import Columns
from pipelines.sources.files.validated_rows import Input
from schemas.errors import ConfigError, DataError

NUMBERS = st.lists(st.tuples(st.integers(-(10**7), 10**7), st.integers(0, 4)), min_size=1, max_size=8)


def spreadsheet_number(cents: int, places: int, decimal: str, group: str) -> str:
    """Return ``cents / 10**places`` as a spreadsheet writes it, with the text ``group`` between thousands."""
    shown = f"{cents / 10**places:_.{places}f}"
    return shown.replace(".", "!").replace("_", group).replace("!", decimal)


def write_cells(folder: Path, cells: list[str], delimiter: str = ";", encoding: str = "utf-8") -> Path:
    path = folder / "f.csv"
    lines = [delimiter.join(("series_id", "timestamp", "value"))]
    lines += [
        delimiter.join(("a", f"2023-01-{i // 24 + 1:02}T{i % 24:02}:00", cell))
        for i, cell in enumerate(cells)
    ]
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def read(path: Path, batch_rows: int = 1000, **columns: str) -> tuple[list[float], list[str]]:
    input_settings = Input(Columns(**columns), batch_rows=batch_rows)
    parts = list(files.read_file(path, input_settings, 1.8e9))
    values = [value for part in parts for value in part.rows["value"]]
    return values, [reason for part in parts for reason in part.rejected["reason"]]


@given(
    NUMBERS,
    st.sampled_from([(",", "."), (",", " "), (",", "\u202f"), (",", "'"), (",", ""), (".", ","), (".", "")]),
)
@settings(max_examples=60, deadline=None)
def test_numbers_with_a_configured_decimal_sign_are_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[int, int]], style: tuple[str, str]
) -> None:
    decimal, group = style
    cells = [spreadsheet_number(*number, decimal, group) for number in numbers]
    path = write_cells(tmp_path_factory.mktemp("d"), cells)
    assert read(path, decimal=decimal) == ([cents / 10**places for cents, places in numbers], [])


@given(NUMBERS, st.sampled_from([(",", "."), (",", ""), (".", "")]), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_files_with_unambiguous_numbers_are_read_exactly_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[tuple[int, int]],
    style: tuple[str, str],
    rows: int,
) -> None:
    cells = [spreadsheet_number(*number, *style) for number in numbers]
    path = write_cells(tmp_path_factory.mktemp("d"), cells)
    exact = [cents / 10**places for cents, places in numbers]
    is_ambiguous = style == (",", ".") and all(
        0 < abs(value) < 1e6 and value == int(value) for value in exact
    )
    try:
        values, reasons = read(path, rows)
    except DataError:
        return
    assert reasons == []
    # In the style (",", "."), the decimal sign is "," and "." separates thousands, so 1.234 means 1234.
    # The reader reads 1.234 as a number with three decimals, unless another cell shows this style. A
    # whole number of a million or more shows the style, because it contains "." twice.
    assert values == exact or is_ambiguous


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,5", "2", "3,25"], [1.5, 2, 3.25]),
        (["0,125", "1,125"], [0.125, 1.125]),
        (["1.234", "1.234,5", "7"], [1234, 1234.5, 7]),
        (["1.234.567", "12"], [1234567, 12]),
        (["1,234.5", "1,234", "0.5"], [1234.5, 1234, 0.5]),
        (["1 234,5", "-1\u00a0234"], [1234.5, -1234]),
        (["1.234", "5.678"], [1.234, 5.678]),
        (["1.234", "1234", "5"], [1.234, 1234, 5]),
        (["1,5e3", "1,5"], [1500, 1.5]),
    ],
)
def test_the_decimal_sign_is_detected_from_the_numbers(
    tmp_path: Path, cells: list[str], values: list[float]
) -> None:
    assert read(write_cells(tmp_path, cells)) == (values, [])


@pytest.mark.parametrize("cells", [["1,234", "2,345"], ["1.234", "999"], ["12", "1,234"]])
def test_a_file_with_an_ambiguous_decimal_sign_is_refused(tmp_path: Path, cells: list[str]) -> None:
    path = write_cells(tmp_path, cells)
    with pytest.raises(
        DataError, match=r"has either three decimals or a separator of thousands: set data\.decimal"
    ):
        tables.check(path)
    with pytest.raises(DataError):
        read(path)
    assert read(path, decimal=".")[1] == read(path, decimal=",")[1] == []


def test_ambiguous_points_a_batch_before_decimal_commas_are_refused(tmp_path: Path) -> None:
    # In the first batch, 1.234 may be a number of thousands or a number with three decimals. Only the decimal
    # commas in the second batch show that the points separate thousands.
    path = write_cells(tmp_path, ["1.234", "5.678", "1,5", "2,5"])
    with pytest.raises(DataError, match=r"'1\.234' has either"):
        read(path, batch_rows=2)


def test_numbers_contradicting_the_detected_decimal_sign_are_quarantined(tmp_path: Path) -> None:
    values, reasons = read(write_cells(tmp_path, ["1,5", "2,5", "3.5"]))
    assert values == [1.5, 2.5]
    assert reasons == ["'3.5 (no decimal comma)' is not a number"]
    assert read(write_cells(tmp_path, ["1.5", "2.5", "3,5"])) == ([1.5, 2.5], ["'3,5' is not a number"])


def test_quoted_decimal_commas_are_read_in_comma_separated_files(tmp_path: Path) -> None:
    assert read(write_cells(tmp_path, ['"1,5"', '"2"'], ",")) == ([1.5, 2], [])


def test_a_wide_file_with_decimal_commas_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    rows = "".join(f"2023-01-{d:02};{d},5;{d}\r\n" for d in range(1, 29))
    path.write_bytes(b"\xef\xbb\xbf" + f"Zeit;Hof;K\u00fcche\r\n{rows}".encode())
    (part,) = files.read_file(path, Input(Columns()), 1.8e9)
    assert len(part.rows) == 56
    assert part.rows["value"].to_list()[:4] == [1.5, 1, 2.5, 2]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_an_encoding_with_a_byte_order_mark_is_detected(tmp_path: Path, encoding: str) -> None:
    cells = ["1,5"] * 300
    assert read(write_cells(tmp_path, cells, "\t", encoding)) == ([1.5] * 300, [])
    packed = tmp_path / "f.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "f.csv").read_bytes()))
    assert read(packed) == ([1.5] * 300, [])


def test_text_files_are_read_in_the_configured_encoding(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes("series_id,timestamp,value\n\u043a,2023-01-01,1.5\n".encode("cp1251"))
    (part,) = files.read_file(path, Input(Columns(encoding="cp1251")), 1.8e9)
    assert part.rows["series_id"].to_list() == ["\u043a"]
    assert tables.check(path, Columns(encoding="cp1251")).file_notices == ()
    assert tables.check(path).file_notices[0].startswith("is not UTF-8, read as Windows-1252")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("encoding", "klingon", "must be auto or an encoding"),
        ("encoding", "rot13", "must be auto or an encoding"),
        ("time_format", "%H:%M", "must be auto, s, ms, us, ns, excel, or a pattern with a year"),
        ("time_format", "year", "must be auto, s, ms, us, ns, excel, or a pattern with a year"),
        ("decimal", ";", "decimal"),
    ],
)
def test_invalid_settings_of_text_files_are_refused(setting: str, value: str, message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        DataConfig(**{setting: value})


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (["$1,234.50", "-$5", "$ -5.25", "+7", "USD 7.5", "5 EUR", "5€"], [1234.5, -5, -5.25, 7, 7.5, 5, 5]),
        (["1.234,50 €", "-5,1", "€ 2", "1 234,5 kr"], [1234.5, -5.1, 2, 1234.5]),
        (["12.5%", "12 %", "-3%"], [12.5, 12, -3]),
        (["(1,234.50)", "($3.25)", "( 2.0 %)", "1.5"], [-1234.5, -3.25, -2, 1.5]),
        (["(1.234,50)", "0,5 %"], [-1234.5, 0.5]),
        (
            ["$", "5 apples", "--5", "(5", "5)", "$$5", "1.5", "€%"],
            [None, None, None, None, None, None, 1.5, None],
        ),
    ],
)
def test_currencies_percent_signs_and_brackets_are_read(cells: list[str], read: list[float | None]) -> None:
    frame = Decimals(Path("f.csv"), "auto").rewrite(pl.DataFrame({"v": cells}), ["v"])
    assert frame["v"].str.strip_chars().cast(pl.Float64, strict=False).to_list() == read
