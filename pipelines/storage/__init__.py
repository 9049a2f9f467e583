"""Where outputs and state tables lie: a folder on a disk, or in an object store.

Functions here do the same to both. On a disk a file is written under a hidden name, synced and renamed. In an
object store there is no rename and no folder: an object appears whole with its one PUT, under its final key,
and is kept from then on. What must be replaced together there, is by one PUT of a manifest; see `parts`.
"""

from pipelines.storage.journal import Journal
from pipelines.storage.lease import Held, check_writable, leased, was_leased
from pipelines.storage.owned import OwnedFile
from pipelines.storage.remote import Location, Remote, location
from pipelines.storage.replaced_parts import (
    BACKFILL,
    complete_replacement_in_store,
    read_consistently,
    replace_in_store,
)
from pipelines.storage.write_whole import (
    Target,
    make_folder,
    remove_temporaries,
    remove_tree,
    source_of,
    sync,
    write_text,
    write_to,
    write_whole,
    written_ns,
)

__all__ = [
    "BACKFILL",
    "Held",
    "Journal",
    "Location",
    "OwnedFile",
    "Remote",
    "Target",
    "check_writable",
    "complete_replacement_in_store",
    "leased",
    "location",
    "make_folder",
    "read_consistently",
    "remove_temporaries",
    "remove_tree",
    "replace_in_store",
    "source_of",
    "sync",
    "was_leased",
    "write_text",
    "write_to",
    "write_whole",
    "written_ns",
]
