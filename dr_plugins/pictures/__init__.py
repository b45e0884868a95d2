"""Pictures of a shard set: images, their stored views, and a teacher's answers.

Example:
    In a notebook, the last line of a cell shows the picture::

        show(ShardSet("imagenet-plus"), "n01440764/n01440764_10026.JPEG", images="imagenet/train")
"""

from dr_plugins.pictures.choosing import choose_rows
from dr_plugins.pictures.sheet import draw_sheet
from dr_plugins.pictures.showing import show
from dr_plugins.pictures.stored import StoredPictures

__all__ = ["StoredPictures", "choose_rows", "draw_sheet", "show"]
