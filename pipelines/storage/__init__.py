"""Where outputs and state tables lie: how a file comes to be there whole, and stays."""

from pipelines.storage.whole import add_line, sync, sync_folder, write_text, write_whole

__all__ = ["add_line", "sync", "sync_folder", "write_text", "write_whole"]
