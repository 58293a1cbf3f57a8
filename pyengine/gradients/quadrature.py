"""Rules of integration over [0, 1]: nodes and weights, in float64.

::

    integral of f from 0 to 1  ≈  sum over k of weights[k] * f(nodes[k])

Three published codes for knowledge neurons use three rules; they differ by O(1/m).
"""

from collections.abc import Callable

import numpy as np

# Nested: the nodes of each level are every other node of the next.
CLENSHAW_CURTIS_LEVELS = (5, 9, 17, 33, 65)

Rule = tuple[np.ndarray, np.ndarray]


def package(m: int) -> Rule:
    """m nodes from 0 to 1, both ends included, each of weight 1/m (EleutherAI's package)."""
    return np.linspace(0, 1, m), np.full(m, 1 / m)


def left(m: int) -> Rule:
    """k/m for k = 0 ... m - 1 (Dai et al.'s code)."""
    return np.arange(m) / m, np.full(m, 1 / m)


def right(m: int) -> Rule:
    """k/m for k = 1 ... m (Dai et al.'s paper, equation 4)."""
    return np.arange(1, m + 1) / m, np.full(m, 1 / m)


def midpoint(m: int) -> Rule:
    """(k + 1/2)/m: exact for straight lines, error O(1/m²)."""
    return (np.arange(m) + 0.5) / m, np.full(m, 1 / m)


def trapezoid(m: int) -> Rule:
    """m nodes from 0 to 1, the ends with half the weight; m = 1 is the midpoint."""
    if m == 1:
        return midpoint(1)
    weights = np.full(m, 1 / (m - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, m), weights


def gauss_legendre(m: int) -> Rule:
    """Exact for polynomials up to degree 2m - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(m)
    return (nodes + 1) / 2, weights / 2


def clenshaw_curtis(m: int) -> Rule:
    """m = n + 1 nodes (1 - cos(πk/n))/2, both ends included; m is at least 2.

    Weights: Waldvogel, "Fast construction of the Fejér and Clenshaw-Curtis quadrature rules", 2006.
    """
    n = m - 1
    k = np.arange(m)
    j = np.arange(1, n // 2 + 1)
    b = np.where(j == n / 2, 1.0, 2.0)
    terms = b / (4 * j**2 - 1) * np.cos(2 * np.pi * np.outer(k, j) / n)
    c = np.where((k == 0) | (k == n), 1.0, 2.0)
    return (1 - np.cos(np.pi * k / n)) / 2, c / n * (1 - terms.sum(1)) / 2


def nested_weights(m: int, n_levels: int) -> np.ndarray:
    """Return Clenshaw-Curtis weights over the m nodes, [n_levels, m].

    The first row is the rule of m nodes, the next that of every other node, and so on.
    """
    weights = np.zeros((n_levels, m))
    for level in range(n_levels):
        stride = 2**level
        weights[level, ::stride] = clenshaw_curtis((m - 1) // stride + 1)[1]
    return weights


RULES: dict[str, Callable[[int], Rule]] = {
    "package": package,
    "left": left,
    "right": right,
    "midpoint": midpoint,
    "trapezoid": trapezoid,
    "gauss_legendre": gauss_legendre,
}
