"""Convert an array of the state to a column of the state table, and back.

S is the number of series.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecaster.components.base import Field
from schemas.errors import ModelError


def column_of(array: NDArray[Any]) -> pa.Array:
    """Return an array as an Arrow column: one number per series, or a flat list if there are more axes."""
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), int(np.prod(array.shape[1:])))


def array_of_column(table: pa.Table, name: str, field: Field) -> NDArray[Any]:
    """Return a column of a state table as a writable array, with the dtype and the shape of ``field``.

    Raises:
        ModelError: the table has no column of this name, dtype and length.
    """
    try:
        numbers = table[name]
        if field.shape:
            chunks = [chunk.flatten() for chunk in numbers.chunks]
            numbers = pa.chunked_array(chunks, numbers.type.value_type)
        if pa.types.is_timestamp(numbers.type):
            numbers = numbers.cast(pa.int64())
        array = numbers.to_numpy().astype(field.dtype)
        return cast("NDArray[Any]", array.reshape(table.num_rows, *field.shape))
    except (KeyError, ValueError, AttributeError, pa.ArrowInvalid) as error:
        raise ModelError(f"the state table's column {name} cannot be read: {error}") from error
