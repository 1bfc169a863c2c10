"""Independent components, by scikit-learn's FastICA."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import MissingDependency

Numbers = NDArray[np.float64]


def independent_components(
    standard: Numbers, count: int, *, seed: int = 0
) -> tuple[Numbers, Numbers]:
    """FastICA of standardised features (Hyvarinen and Oja 2000).

    Args:
        standard: [T, D], of mean 0. count: C. seed: of its start.

    Returns:
        the matrices of z = x W [D, C] and x = z V [C, D].

    Raises:
        MissingDependency: scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import FastICA
    except ImportError as error:
        raise MissingDependency("scikit-learn", "dynamics") from error
    ica = FastICA(count, random_state=seed, whiten="unit-variance", max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what did not converge is a map still
        ica.fit(standard)
    return np.asarray(ica.components_).T, np.asarray(ica.mixing_).T
