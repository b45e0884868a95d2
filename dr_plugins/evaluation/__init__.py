"""Classifiers on ImageNet's published test sets or any folder: accuracy and calibration.

Example:
    Evaluate a network, and compare it with another one::

        sets, missing = find_sets(["imagenet", "v2"], [Path("data")], classes)
        results = [evaluate(model, images, Path("results")) for model in models for images in sets]
        print(markdown(summarize(results, missing)))
"""

from dr_plugins.evaluation.corruptions import ALEXNET_ERRORS, corrupt
from dr_plugins.evaluation.image_set import ImageNetClasses, ImageSet
from dr_plugins.evaluation.report import summarize
from dr_plugins.evaluation.results import SetResult
from dr_plugins.evaluation.running import ModelUnderTest, evaluate
from dr_plugins.evaluation.suites import SUITES, find_sets
from dr_plugins.evaluation.tables import markdown

__all__ = [
    "ALEXNET_ERRORS",
    "SUITES",
    "ImageNetClasses",
    "ImageSet",
    "ModelUnderTest",
    "SetResult",
    "corrupt",
    "evaluate",
    "find_sets",
    "markdown",
    "summarize",
]
