"""A page that shows a shard set: served to this machine, or exported as files."""

from dr_plugins.explorer.catalog import Catalog
from dr_plugins.explorer.export import export
from dr_plugins.explorer.serving import serve

__all__ = ["Catalog", "export", "serve"]
