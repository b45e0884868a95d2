"""What a teacher answered to each image of a shard set, in a few numbers.

Example:
    The ten images whose label the teacher believes least::

        shards = ShardSet("imagenet-plus")
        statistics = open_statistics(shards, workers=8)
        for row in statistics.label_prob.argsort()[:10].tolist():
            print(shards.keys[row], statistics.label_prob[row])
"""

from dr_plugins.statistics.answers import AverageAnswers, average_answers
from dr_plugins.statistics.computing import compute_statistics
from dr_plugins.statistics.file import open_statistics
from dr_plugins.statistics.image_statistics import Confusion, ImageStatistics

__all__ = [
    "AverageAnswers",
    "Confusion",
    "ImageStatistics",
    "average_answers",
    "compute_statistics",
    "open_statistics",
]
