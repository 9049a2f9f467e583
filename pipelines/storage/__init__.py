"""Files and folders on a disk or in an object store, through the same functions.

On a disk a file is written under a hidden name, synced and renamed. An object store has no rename and no
folders: an object appears complete under its final key with one PUT, and is durable from then on. Parts of an
output that must be replaced together are replaced in a store by one PUT of a manifest; see
`pipelines.storage.replaced_parts`.
"""

from pipelines.storage import markers
from pipelines.storage.journal import Journal
from pipelines.storage.lease import Held, check_writable, leased, was_leased
from pipelines.storage.markers import BACKFILL
from pipelines.storage.output_errors import cannot_write, output_errors
from pipelines.storage.owned import OwnedFile
from pipelines.storage.remote import Location, Remote, location
from pipelines.storage.replaced_parts import (
    complete_replacement_in_store,
    read_consistently,
    replace_in_store,
)
from pipelines.storage.write_whole import (
    Target,
    make_folder,
    open_parts,
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
    "cannot_write",
    "check_writable",
    "complete_replacement_in_store",
    "leased",
    "location",
    "make_folder",
    "markers",
    "open_parts",
    "output_errors",
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
