"""Columns of almost every Arrow type, for tests that read inputs with a column of each type."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa

CELLS = 3
"""Cells of each column: two values and a null, or three values in unions."""

_FAR = 2**63 - 1


def arrow_types() -> dict[str, pa.Array]:
    """Return columns of almost every Arrow type, by name.

    Some columns have cells with which readers failed, such as far times and text that is not UTF-8.
    """
    found: dict[str, pa.Array] = {"null": pa.nulls(CELLS), "bool": pa.array([True, False, None])}
    found |= _numbers() | _texts() | _times() | _nested() | _encoded()
    assert all(len(column) == CELLS for column in found.values())
    return found


def table_of(rows: int, replaced: Mapping[str, pa.Array], names: tuple[str, ...] = ()) -> pa.Table:
    """Return a table of ``rows`` valid observations, hourly from 2023, with columns replaced or added.

    Args:
        rows: number of rows.
        replaced: columns of ``rows`` cells, by name; each replaces the column with its name, or is added.
        names: the names of the columns that the table has, in order; empty for all columns.
    """
    hours = [1_672_531_200_000_000 + 3_600_000_000 * i for i in range(rows)]
    columns = {
        "series_id": pa.array(["a"] * rows),
        "timestamp": pa.array(hours, pa.timestamp("us", "UTC")),
        "value": pa.array([float(i) for i in range(rows)]),
    }
    columns = {**columns, **replaced}
    return pa.table({name: columns[name] for name in names or columns})


def _numbers() -> dict[str, pa.Array]:
    whole = [
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
        pa.float32(), pa.float64(),
    ]  # fmt: skip
    found = {str(kind): pa.array([1, 2, None], kind) for kind in whole}
    found["float16"] = pa.array([np.float16(1), np.float16(2), None], pa.float16())
    found["int64_extremes"] = pa.array([_FAR, -_FAR - 1, None])
    found["uint64_extreme"] = pa.array([2**64 - 1, 0, None], pa.uint64())
    found["float_extremes"] = pa.array([float("inf"), float("nan"), -1.7976931348623157e308])
    for kind in (
        pa.decimal32(5, 2), pa.decimal64(10, 2), pa.decimal128(38, 9), pa.decimal256(60, 9),
        pa.decimal256(76, 50), pa.decimal128(5, -2),
    ):  # fmt: skip
        found[str(kind)] = pa.array([Decimal("100"), Decimal("200"), None], kind)
    found["decimal256_wide"] = pa.array([Decimal("9" * 70), Decimal("1.5"), None], pa.decimal256(76, 3))
    return found


def _texts() -> dict[str, pa.Array]:
    found = {}
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        found[str(kind)] = pa.array(["a", "1", None], kind)
        found[f"{kind}_not_utf8"] = _not_utf8(kind)
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        found[str(kind)] = pa.array([b"1", b"\xff", None], kind)
    found["fixed_size_binary"] = pa.array([b"ab", b"\xff\xff", None], pa.binary(2))
    return found


def _not_utf8(kind: pa.DataType) -> pa.Array:
    """Return a text column that contains bytes that are not UTF-8, as some programs write it."""
    if pa.types.is_string_view(kind):
        cells = pa.array([b"1", b"\xff", None], pa.binary_view())
    else:
        cells = pa.array(
            [b"1", b"\xff", None], pa.large_binary() if kind == pa.large_string() else pa.binary()
        )
    return pa.Array.from_buffers(kind, CELLS, cells.buffers(), cells.null_count)


def _times() -> dict[str, pa.Array]:
    found = {
        "date32": pa.array([19_000, 2**31 - 1, None], pa.date32()),
        "date64": pa.array([86_400_000 * 19_000, _FAR // 86_400_000 * 86_400_000, None], pa.date64()),
        "time32_s": pa.array([1, 2, None], pa.time32("s")),
        "time32_ms": pa.array([1, 2, None], pa.time32("ms")),
        "time64_us": pa.array([1, 86_400_000_001, None], pa.time64("us")),
        "time64_ns": pa.array([1, -1, None], pa.time64("ns")),
        "month_day_nano": pa.array([(1, 2, 3), (0, 0, 0), None], pa.month_day_nano_interval()),
    }
    for unit in ("s", "ms", "us", "ns"):
        found[f"duration_{unit}"] = pa.array([1, _FAR, None], pa.duration(unit))
        zones = (None, "+05:30") if unit != "us" else (None, "UTC", "+05:30", "Asia/Kolkata", "Mars/Phobos")
        for zone in zones:
            for name, cells in (("", [1, 2, None]), ("_far", [_FAR, -_FAR - 1, None])):
                found[f"timestamp_{unit}_{zone}{name}"] = pa.array(cells, pa.timestamp(unit, zone))
    return found


def _nested() -> dict[str, pa.Array]:
    wide = pa.struct([("a", pa.decimal256(60, 9))])
    far = pa.array([_FAR, 1], pa.timestamp("ms"))
    bad = _not_utf8(pa.string())
    return {
        "list": pa.array([[1], [2, 3], None]),
        "large_list": pa.array([[1], [], None], pa.large_list(pa.int64())),
        "fixed_size_list": pa.array([[1], [2], None], pa.list_(pa.int64(), 1)),
        "list_view": pa.array([[1], [2], None], pa.list_view(pa.int64())),
        "list_of_bytes": pa.array([[b"\xff"], [], None], pa.list_(pa.binary())),
        "list_of_far_times": pa.ListArray.from_arrays(pa.array([0, 1, 2, 2], pa.int32()), far),
        "list_not_utf8": pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), bad),
        "struct": pa.array([{"a": 1}, {"a": 2}, None]),
        "empty_struct": pa.array([{}, {}, None], pa.struct([])),
        "struct_of_decimal256": pa.array([{"a": Decimal(1)}, {"a": None}, None], wide),
        "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "sparse_union": pa.UnionArray.from_sparse(
            pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]
        ),
        "dense_union": pa.UnionArray.from_dense(
            pa.array([0, 1, 0], pa.int8()),
            pa.array([0, 0, 1], pa.int32()),
            [pa.array([1, 2]), pa.array(["a"])],
        ),
    }


def _encoded() -> dict[str, pa.Array]:
    kinds = [pa.array(["a", "1", None]), pa.array([1.0, 2.0, None]), pa.array([b"\xff", b"1", None])]
    kinds += [
        pa.array([1, 2, None], pa.timestamp("us")),
        pa.array([Decimal(1), None, None], pa.decimal256(60, 9)),
    ]
    found = {f"dictionary_of_{column.type}": column.dictionary_encode() for column in kinds}
    found["dictionary_not_utf8"] = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None], pa.int32()), _not_utf8(pa.string())
    )
    for ends, values in (([2, 3], [1.0, None]), ([1, 3], ["a", "b"])):
        column = pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))
        found[f"run_end_encoded_{column.type.value_type}"] = column
    from_storage = pa.ExtensionArray.from_storage
    found["uuid"] = from_storage(pa.uuid(), pa.array([b"a" * 16, b"\xff" * 16, None], pa.binary(16)))
    found["json"] = from_storage(pa.json_(), pa.array(["1", "{}", None]))
    found["bool8"] = from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8()))
    found["opaque"] = from_storage(pa.opaque(pa.int64(), "a", "b"), pa.array([1, 2, None]))
    found["tensor"] = from_storage(
        pa.fixed_shape_tensor(pa.int32(), [1]), pa.array([[1], [2], None], pa.list_(pa.int32(), 1))
    )
    return found
