"""Maps between the features of a trajectory and the series that are forecast.

A map is fitted on the context itself: scaled to [0, 1], standardised, then turned by PCA or another
map (Benechehab et al., arXiv 2410.11711, section 4). With fewer components than features, fewer
series are forecast.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.dynamics.independent import independent_components
from posttrain.errors import ConfigError, DataError

Numbers = NDArray[np.float64]
Kind = Literal["identity", "pca", "ica", "autoencoder"]
KINDS: tuple[Kind, ...] = ("identity", "pca", "ica", "autoencoder")


class FeatureMap(Protocol):
    """A fitted map.

    num_components: C.
    """

    num_components: int

    def encode(self, features: Numbers) -> Numbers:
        """Features [..., D] -> components [..., C]."""
        ...

    def decode(self, components: Numbers) -> Numbers:
        """Components [..., C] -> features [..., D]."""
        ...


class Identity:
    """Each feature is a component: x -> x."""

    def __init__(self, num_features: int) -> None:
        self.num_components = num_features

    def encode(self, features: Numbers) -> Numbers:
        return np.asarray(features, dtype=np.float64)

    def decode(self, components: Numbers) -> Numbers:
        return np.asarray(components, dtype=np.float64)


class Linear:
    """z = (x - mean) / scale W,      x = z V scale + mean.

    Args:
        mean, scale: [D]. forward: W [D, C]. backward: V [C, D].
    """

    def __init__(self, mean: Numbers, scale: Numbers, forward: Numbers, backward: Numbers) -> None:
        self.mean, self.scale = mean, scale
        self.forward, self.backward = forward, backward
        self.num_components = forward.shape[1]

    def encode(self, features: Numbers) -> Numbers:
        return (features - self.mean) / self.scale @ self.forward

    def decode(self, components: Numbers) -> Numbers:
        return components @ self.backward * self.scale + self.mean


class Autoencoder:
    """A network D -> hidden -> C -> hidden -> D, trained on the standardised context by AdamW.

    Args:
        features: [T, D]. num_components: C. hidden: width. steps: updates. seed: of the weights.
    """

    def __init__(
        self,
        features: Numbers,
        num_components: int,
        *,
        hidden: int = 32,
        steps: int = 300,
        seed: int = 0,
    ) -> None:
        self.num_components = num_components
        self.mean, self.scale = _standard(features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._encoder = _network(features.shape[1], hidden, num_components)
            self._decoder = _network(num_components, hidden, features.shape[1])
        rows = torch.from_numpy((features - self.mean) / self.scale).float()
        weights = [*self._encoder.parameters(), *self._decoder.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=1e-4)
        for _ in range(steps):
            loss = (self._decoder(self._encoder(rows)) - rows).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def encode(self, features: Numbers) -> Numbers:
        return self._apply(self._encoder, (features - self.mean) / self.scale)

    def decode(self, components: Numbers) -> Numbers:
        return self._apply(self._decoder, components) * self.scale + self.mean

    @staticmethod
    def _apply(network: torch.nn.Module, rows: Numbers) -> Numbers:
        with torch.no_grad():
            return network(torch.from_numpy(np.ascontiguousarray(rows)).float()).double().numpy()


def fit_map(
    features: Numbers, kind: Kind = "pca", num_components: int | None = None, *, seed: int = 0
) -> FeatureMap:
    """A map fitted on a context.

    Args:
        features: [T, D], finite. kind: "identity", "pca", "ica" (scikit-learn) or "autoencoder".
        num_components: C, at most D; None is D.
        seed: of ICA and of the autoencoder's weights.

    Raises:
        ConfigError: no such kind, or a number of components that it cannot have.
        DataError: fewer than 3 rows.
        MissingDependency: ICA without scikit-learn.
    """
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 3:
        raise DataError(
            f"features have the shape {rows.shape}; a map is fitted on [T, D] with at least 3 rows"
        )
    count = rows.shape[1] if num_components is None else num_components
    if kind not in KINDS:
        raise ConfigError(f"there is no map {kind!r}; choose one of {', '.join(KINDS)}")
    if not 1 <= count <= rows.shape[1] or (kind == "identity" and count != rows.shape[1]):
        raise ConfigError(
            f"{count} components of {rows.shape[1]} features by {kind!r}; there may be 1 to "
            f"{rows.shape[1]}, and the identity keeps all"
        )
    if kind == "identity":
        return Identity(count)
    if kind == "autoencoder":
        return Autoencoder(rows, count, seed=seed)
    mean, scale = _standard(rows)
    standard = (rows - mean) / scale
    if kind == "ica":
        return Linear(mean, scale, *independent_components(standard, count, seed=seed))
    axes = np.linalg.svd(standard, full_matrices=False)[2][:count]
    return Linear(mean, scale, axes.T, axes)


def _standard(features: Numbers) -> tuple[Numbers, Numbers]:
    """Mean and scale [D]; a constant feature has the scale 1.

    Scaling to [0, 1] before it changes nothing but the units, so one affine map does both.
    """
    scale = features.std(0)
    return features.mean(0), np.where(scale > 1e-12, scale, 1.0)


def _network(inputs: int, hidden: int, outputs: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, outputs)
    )
