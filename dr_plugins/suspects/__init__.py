"""Images whose label the teacher does not believe: likely label errors.

Example:
    The ten most suspicious images of a set, and a list that leaves all of them out::

        suspects = find_suspects([ShardSet("imagenet-plus")])
        for suspect in suspects[:10]:
            print(suspect.key, suspect.label, suspect.suggested, suspect.margin)
        write_keys(suspects, Path("skip.txt"))
"""

from dr_plugins.suspects.confident_learning import class_thresholds, confident_classes
from dr_plugins.suspects.finding import Suspect, find_suspects
from dr_plugins.suspects.page import write_page
from dr_plugins.suspects.tables import write_csv, write_json, write_keys

__all__ = [
    "Suspect",
    "class_thresholds",
    "confident_classes",
    "find_suspects",
    "write_csv",
    "write_json",
    "write_keys",
    "write_page",
]
