"""Write the data files of this folder, most of them with pandas, openpyxl, XlsxWriter and PostgreSQL.

The files hold the rows of `FRAME`: two series with 40 hours each. One value is missing in
pandas_missing.csv, and the files of PostgreSQL have one more row. Run this script again after a change of
the rows:

    pip install openpyxl xlsxwriter && python tests/data/write_files.py 'host=/tmp/pg user=postgres'

The argument is the address of a PostgreSQL server; without it, the files of PostgreSQL stay as they are.

Excel, R and Google Sheets were not at hand. `write_by_hand` writes what they write by their documentation:
Excel's CSV export in the United States and in Germany, R's write.csv and write.csv2, Google Sheets' CSV.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

HERE = Path(__file__).parent
HOURS = 40
TIMES = pd.date_range("2010-01-31", periods=HOURS, freq="h")
FRAME = pd.DataFrame(
    {
        "unique_id": np.repeat(["north", "süd"], HOURS),
        "ds": [*TIMES, *TIMES],
        "y": np.round(1234.5 + 100 * np.sin(np.arange(2 * HOURS)), 2),
    }
)


def write_with_pandas() -> None:
    FRAME.to_csv(HERE / "pandas_index.csv")
    FRAME.to_csv(HERE / "pandas_us.csv", index=False, date_format="%m/%d/%Y %I:%M %p")
    FRAME.to_csv(HERE / "pandas_german.csv", index=False, sep=";", decimal=",", date_format="%d.%m.%Y %H:%M")
    FRAME.to_csv(HERE / "pandas_latin1.csv", index=False, encoding="latin-1")
    FRAME.to_csv(HERE / "pandas_utf16.csv", index=False, sep="\t", encoding="utf-16")
    gap = FRAME.assign(y=FRAME["y"].where(FRAME.index != 5))
    gap.to_csv(HERE / "pandas_missing.csv", index=False, na_rep="-")
    for packing in ("gz", "xz", "bz2", "zip", "zst"):
        FRAME.to_csv(HERE / f"pandas.csv.{packing}", index=False)
    FRAME.pivot(index="ds", columns="unique_id", values="y").to_csv(HERE / "pandas_wide.csv")
    FRAME.to_json(HERE / "pandas.jsonl", orient="records", lines=True, date_format="iso", force_ascii=False)
    FRAME.to_parquet(HERE / "pandas.parquet")
    FRAME.to_excel(HERE / "openpyxl.xlsx", index=False, engine="openpyxl")
    FRAME.to_excel(HERE / "xlsxwriter.xlsx", index=False, engine="xlsxwriter")
    serial = (FRAME["ds"] - pd.Timestamp("1899-12-30")) / pd.Timedelta(days=1)
    FRAME.assign(ds=serial).to_csv(HERE / "pandas_serial.csv", index=False)
    parts = FRAME.rename(columns={"unique_id": "store"}).assign(item="tea")
    name = "part-{i}.parquet"
    parts.to_parquet(HERE / "hive", partition_cols=["store"], index=False, basename_template=name)


def write_by_hand() -> None:
    def write(
        name: str, header: str, row: Callable[[int, str, pd.Timestamp, float], str], encoding: str
    ) -> None:
        lines = [header, *(row(i, *cells) for i, cells in enumerate(FRAME.itertuples(index=False), 1))]
        (HERE / name).write_bytes(("\r\n".join(lines) + "\r\n").encode(encoding))

    def day(t: pd.Timestamp) -> str:
        return f"{t.month}/{t.day}/{t.year}"

    def german(y: float) -> str:
        return f"{y:,.2f}".translate(str.maketrans(",.", ".,"))

    def r_time(t: pd.Timestamp) -> str:  # R writes a time at midnight as a date alone
        return f"{t:%Y-%m-%d}" if t.hour == 0 else f"{t:%Y-%m-%d %H:%M:%S}"

    write(
        "excel_us.csv",
        "unique_id,ds,y",
        lambda i, s, t, y: f'{s},{day(t)} {t:%-H:%M},"${y:,.2f}"',
        "utf-8-sig",
    )
    write(
        "excel_german.csv",
        "unique_id;ds;y",
        lambda i, s, t, y: f"{s};{t:%d.%m.%Y %H:%M};{german(y)} €",
        "cp1252",
    )
    write("r.csv", '"","unique_id","ds","y"', lambda i, s, t, y: f'"{i}","{s}",{r_time(t)},{y}', "utf-8")
    comma = str.maketrans(".", ",")
    write(
        "r2.csv",
        '"";"unique_id";"ds";"y"',
        lambda i, s, t, y: f'"{i}";"{s}";{r_time(t)};{str(y).translate(comma)}',
        "utf-8",
    )
    write("sheets.csv", "unique_id,ds,y", lambda i, s, t, y: f"{s},{day(t)} {t:%-H:%M:%S},{y}", "utf-8")


def write_with_postgres(address: str) -> None:
    FRAME.to_csv(HERE / "rows.tmp", index=False)
    copies = (
        ("postgres.csv", "csv, header"),
        ("postgres.tsv", "text, header"),
        ("postgres_semicolon.csv", "csv, header, delimiter ';', force_quote *"),
    )
    lines = [
        "create temp table r (unique_id text, ds timestamp, y numeric);",
        f"\\copy r from '{HERE / 'rows.tmp'}' with (format csv, header)",
        "insert into r values ('north', '2010-03-01', null);",
        *(f"\\copy r to '{HERE / name}' with (format {how})" for name, how in copies),
    ]
    subprocess.run(["psql", address, "-q"], input="\n".join(lines), text=True, check=True)
    (HERE / "rows.tmp").unlink()


if __name__ == "__main__":
    write_with_pandas()
    write_by_hand()
    if len(sys.argv) > 1:
        write_with_postgres(sys.argv[1])
