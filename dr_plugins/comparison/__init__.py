"""Teachers side by side, before days of generation: accuracy, calibration, cost, ensembles.

Example:
    Compare two teachers on a hundredth of the training images::

        teachers = {name: Ensemble([load_teacher(name)]) for name in ("timm:a", "timm:b")}
        comparison = compare_teachers(source, teachers, Policy.load("randaug"), fraction=0.01)
        print(markdown(comparison))
"""

from dr_plugins.comparison.comparing import compare_teachers
from dr_plugins.comparison.figures import draw
from dr_plugins.comparison.results import Candidate, Pair, TeacherComparison
from dr_plugins.comparison.scores import rank_correlation
from dr_plugins.comparison.tables import markdown

__all__ = [
    "Candidate",
    "Pair",
    "TeacherComparison",
    "compare_teachers",
    "draw",
    "markdown",
    "rank_correlation",
]
