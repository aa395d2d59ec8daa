"""How exact a measured figure is: intervals of 95 % around means, as pure functions over numbers.

Scores lie in [0, 1] and need be neither 0 nor 1: of all distributions in [0, 1] with one mean, that of zeros and ones
varies most (Bhatia and Davis, "A better bound on the variance", American Mathematical Monthly 107, 2000). So the
interval of a share is wide enough for every other score. Pictures of one prompt are more alike than those of several,
which makes an interval wider than it need be, never narrower. It allows for the chance of the seeds, not for the choice
of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from statistics import NormalDist, stdev

LEVEL = 0.95
"""Share of intervals that hold the true value."""
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t of 1 to 30 degrees of freedom that 95 % of values do not exceed, whatever their sign."""


def mean_score_interval(mean: float, count: int) -> tuple[float, float]:
    """Return the Wilson score interval around a mean of scores. Source: E. B. Wilson, JASA 22, 1927.

    Unlike mean and standard error it stays in [0, 1], and has a width where all scores are equal.

    Args:
        mean: of the scores, in [0, 1].
        count: of scores, at least 1.

    Returns:
        (low, high) with 0 <= low <= mean <= high <= 1.
    """
    assert count > 0 and 0 <= mean <= 1
    weight = _Z**2 / count
    middle = (mean + weight / 2) / (1 + weight)
    half = sqrt(weight * mean * (1 - mean) + weight**2 / 4) / (1 + weight)
    # Rounding alone moves an end past the mean or past 0 and 1.
    return max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half))


def score_change_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Return the interval around the mean change of scores of the same pictures, drawn by two models.

    The adjusted Wald interval of matched pairs adds two pairs: one without a change, and half a pair with a change of 1
    in each direction. So a few equal changes prove nothing. Source: Agresti and Min, "Simple improved confidence
    intervals for comparing matched proportions", Statistics in Medicine 24, 2005.

    Args:
        before: scores in [0, 1], at least one.
        after: the scores of the same pictures, in the same order.

    Returns:
        (low, high) in [-1, 1], around the mean change.
    """
    changes = [new - old for old, new in zip(before, after, strict=True)]
    count = len(changes) + 2
    mean = sum(changes) / count
    variance = max(0.0, (sum(change**2 for change in changes) + 1) / count - mean**2)
    half = _Z * sqrt(variance / count)
    return max(-1.0, mean - half), min(1.0, mean + half)


def noise_of_mean(values: Sequence[float]) -> float | None:
    """Return how far a mean may lie from the true one by chance: Student's t times its standard error.

    Given the differences between two models on the same samples, it is the paired comparison of the two.

    Returns:
        Half the width of the interval, in the unit of the values; None for fewer than two, whose spread is not known.
    """
    if len(values) < 2:
        return None
    return _student_t(len(values) - 1) * stdev(values) / sqrt(len(values))


def noise_of_share(share: float, count: int) -> float:
    """Return how far a share may lie from the true one by chance: 1.96 binomial standard errors.

    Args:
        share: the true share, in [0, 1].
        count: of what was counted, at least 1.
    """
    return _Z * sqrt(share * (1 - share) / count)


def count_to_tell(share: float) -> int | None:
    """Return how many pictures it takes to tell a share from none and from all.

    Returns:
        The smallest count whose `noise_of_share` reaches neither 0 nor 1; None for 0 and 1, which no count tells from
        what lies beside them.
    """
    near = min(share, 1 - share)
    return ceil(_Z**2 * (1 - near) / near) if near > 0 else None


def _student_t(freedom: int) -> float:
    """Return Student's t; above the table by Cornish and Fisher, Abramowitz and Stegun 26.7.5, to 0.001."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    first = (_Z**3 + _Z) / 4
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    return _Z + first / freedom + second / freedom**2
