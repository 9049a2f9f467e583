"""Files and folders on a disk or in an object store, through the same functions.

A `Location` is the name of a file or folder: a `pathlib.Path` on a disk, or a `Remote` in an object store.
`Store` is the protocol of the operations that differ between them; `DiskStore` and `ObjectStore` implement
it. `store_of` returns the `Store` of a location. No other code distinguishes disks and object stores.

On a disk a file is written under a hidden name, synced and renamed. An object store has no rename and no
folders. There an object appears complete under its final key with one PUT, and is durable from then on. To
replace several parts of an output together, one PUT of a manifest is enough; see
`pipelines.storage.replaced_parts`.
"""

from pipelines.storage import markers
from pipelines.storage.files import (
    complete_replacement,
    replace_parts,
    store_of,
    sync,
    write_text,
    write_to,
    write_whole,
)
from pipelines.storage.journal import Journal
from pipelines.storage.markers import BACKFILL
from pipelines.storage.output_errors import output_errors
from pipelines.storage.owned import OwnedFile
from pipelines.storage.remote import Location, Remote, location
from pipelines.storage.store import Held, Store, Target

__all__ = [
    "BACKFILL",
    "Held",
    "Journal",
    "Location",
    "OwnedFile",
    "Remote",
    "Store",
    "Target",
    "complete_replacement",
    "location",
    "markers",
    "output_errors",
    "replace_parts",
    "store_of",
    "sync",
    "write_text",
    "write_to",
    "write_whole",
]
