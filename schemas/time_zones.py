"""Convert times without a zone, which are local times of a given zone, to UTC."""

from __future__ import annotations

import polars as pl

TIME = pl.Datetime("us", "UTC")


def check(zone: str) -> str:
    """Return ``zone`` unchanged if it is "" (UTC) or the name of a time zone, else raise a ValueError.

    Raises:
        ValueError: there is no such zone.
    """
    try:
        if zone:
            pl.Series([None], dtype=pl.Datetime("us")).dt.replace_time_zone(zone)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise ValueError(
            f"must be a name in the time zone database, such as Europe/Berlin or UTC, and {zone!r} is not"
        ) from None
    return zone


def is_utc(zone: str) -> bool:
    """Return True if ``zone`` is "" or "UTC": local times of this zone are already times in UTC."""
    return zone in ("", "UTC")


def to_utc(local: pl.Series, zone: str) -> pl.Series:
    """Convert local times of a zone to times in UTC.

    ``local`` has the type ``Datetime("us", "UTC") [n]``, but its clock times are local times of ``zone``.
    A time that exists twice (clocks are set back) or not at all (clocks are set forward) becomes null.
    """
    naive = local.dt.replace_time_zone(None)
    return naive.dt.replace_time_zone(zone, ambiguous="null", non_existent="null").dt.convert_time_zone("UTC")


def is_skipped(local: pl.Expr, zone: str) -> pl.Expr:
    """Return an expression: True for each local time (see `to_utc`) that a zone lacks, and False for null."""
    naive = local.dt.replace_time_zone(None)
    read = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.is_not_null() & read.is_null()


def is_repeated(local: pl.Expr, zone: str) -> pl.Expr:
    """Return True for local times (see `to_utc`) that exist twice in a zone."""
    naive = local.dt.replace_time_zone(None)
    read = naive.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    return local.is_not_null() & read.is_null() & ~is_skipped(local, zone)
