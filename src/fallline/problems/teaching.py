"""Problems for learning and teaching: functions of a few parameters whose minimum one can see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fallline.errors import InvalidValue
from fallline.layout import Layout, Parameter

NOISY_ROWS = 1024
"""Rows of a noisy quadratic where none are asked for."""


@dataclass(frozen=True, eq=False, repr=False)
class FunctionProblem:
    """A function to descend; made by `quadratic`, `rosenbrock` or `function`.

    Attributes:
        f: from an array of the start's shape to a number.
        df: its gradient, or None for central differences.
        begin: the start, float64.
        noise: [rows, size]: row i adds noise_i . w to the function; the columns' mean is zero.
        text: how it was made.
    """

    name: str
    f: Callable[[np.ndarray], Any]
    df: Callable[[np.ndarray], Any] | None
    begin: np.ndarray
    noise: np.ndarray | None
    text: str

    def __repr__(self) -> str:
        return self.text

    @property
    def rows(self) -> int:
        return 1 if self.noise is None else len(self.noise)

    @cached_property
    def layout(self) -> Layout:
        return Layout((Parameter("w", self.begin.shape),))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the description, the start, the noise and, for a user's function, its code's bytes."""
        code = getattr(self.f, "__code__", None)
        digest = hashlib.sha256(self.text.encode() + self.begin.tobytes() + (code.co_code if code else b""))
        digest.update(b"" if self.noise is None else self.noise.tobytes())
        return digest.hexdigest()

    model = None
    keeps_path = True
    usual_metrics: tuple[str, ...] = ()

    def held_out(self, data: Any) -> FunctionProblem:
        """A function has no data to hold out."""
        raise InvalidValue(f"valid= needs a problem with data; this one is {self.name}: leave valid out")

    def measure(self, point: np.ndarray, metrics: Any) -> tuple[float, list[float]]:
        """The value at a point."""
        return self.loss(point), []

    def named(self, point: np.ndarray) -> dict[str, np.ndarray]:
        """The point by name, a copy."""
        return {name: np.array(value) for name, value in self.layout.split(np.asarray(point)).items()}

    def start(self) -> np.ndarray:
        """The start, flat."""
        return self.begin.reshape(-1).copy()

    def loss(self, w: np.ndarray, batch: np.ndarray | None = None) -> float:
        """The function's value; with noise, plus the batch's mean noise . w (which is zero over all rows)."""
        with np.errstate(over="ignore", invalid="ignore"):
            value = float(self.f(np.asarray(w, np.float64).reshape(self.begin.shape)))
            return value if self.noise is None or batch is None else value + float(self.noise[batch].mean(axis=0) @ w)

    def gradient(self, w: np.ndarray, batch: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """Value and gradient; without `df` by central differences, exact to about 1e-10 of the function's scale."""
        w = np.asarray(w, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.df is None:
                g = _differences(lambda u: float(self.f(u.reshape(self.begin.shape))), w)
            else:
                g = np.array(self.df(w.reshape(self.begin.shape)), np.float64).reshape(-1)
                if g.size != w.size:
                    raise InvalidValue(f"the gradient has {g.size} numbers and the start has {w.size}: expected one for each")
            if self.noise is not None and batch is not None:
                g = g + self.noise[batch].mean(axis=0)
            return self.loss(w, batch), g


def quadratic(
    eigenvalues: Sequence[float], *, noise: float = 0.0, start: Any = None, rows: int | None = None, seed: int = 0
) -> FunctionProblem:
    """The bowl 1/2 sum_j eigenvalue_j * w_j^2, whose gradient is eigenvalue_j * w_j.

    Args:
        eigenvalues: curvature along each axis; at least one.
        noise: standard deviation of a row's gradient around the true one, along each axis. Rows have fixed noise
            that is zero on average over all rows, so batches, epochs and batch sizes mean what they mean on data.
        start: where to start; ones where left out.
        rows: data rows of the noisy bowl (1024 where left out); 1 without noise.
        seed: seed of the noise.

    Raises:
        InvalidValue: no eigenvalues, or values that are not finite.

    >>> quadratic([1, 100]).gradient(np.array([1.0, 1.0]))
    (50.5, array([  1., 100.]))
    """
    curvature = _vector("eigenvalues", eigenvalues)
    begin = np.ones_like(curvature) if start is None else _vector("start", start)
    if begin.shape != curvature.shape:
        raise InvalidValue(f"start has {begin.size} numbers and eigenvalues has {curvature.size}: expected one for each")
    if not (np.isfinite(noise) and noise >= 0):
        raise InvalidValue(f"noise={noise!r}: expected a number of at least 0")
    count = (NOISY_ROWS if noise else 1) if rows is None else rows
    if count < (2 if noise else 1):
        raise InvalidValue(f"rows={rows!r}: expected at least {2 if noise else 1}" + ("; noise needs two to average to zero" if noise else ""))
    extra = ", ".join(
        [repr(curvature.tolist())]
        + ([f"noise={noise!r}"] if noise else [])
        + ([f"start={begin.tolist()!r}"] if start is not None else [])
        + ([f"rows={rows!r}"] if rows is not None else [])
        + ([f"seed={seed!r}"] if seed else [])
    )
    made = None if count == 1 else _noise(count, curvature.size, noise, seed)
    return FunctionProblem(
        "quadratic", lambda w: 0.5 * float(curvature @ (w * w)), lambda w: curvature * w, begin, made, f"fl.quadratic({extra})"
    )


def rosenbrock(*, start: Any = (-1.2, 1.0)) -> FunctionProblem:
    """Rosenbrock's curved valley (1 - x)^2 + 100 (y - x^2)^2, lowest at (1, 1).

    Source: H. H. Rosenbrock, The Computer Journal 3 (1960).

    >>> rosenbrock().loss(np.array([1.0, 1.0]))
    0.0
    """
    begin = _vector("start", start)
    if begin.size != 2:
        raise InvalidValue(f"start has {begin.size} numbers: expected two, x and y")

    def value(w: np.ndarray) -> float:
        return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2

    def slope(w: np.ndarray) -> list:
        bend = w[1] - w[0] ** 2
        return [-2 * (1 - w[0]) - 400 * w[0] * bend, 200 * bend]

    return FunctionProblem("rosenbrock", value, slope, begin, None, f"fl.rosenbrock(start={tuple(begin.tolist())!r})")


def function(f: Callable[[np.ndarray], Any], gradient: Callable[[np.ndarray], Any] | None = None, *, start: Any) -> FunctionProblem:
    """Any function of an array.

    Args:
        f: takes a float64 array of the start's shape, gives a number.
        gradient: gives an array of that shape; left out, central differences (f(w + h) - f(w - h)) / 2h along each
            axis, h = 6e-6 * max(1, |w|): 2 evaluations a parameter.
        start: a number or an array.

    Raises:
        InvalidValue: `f` is not callable, or the start is not finite.

    >>> function(lambda w: float((w**2).sum()), start=[3.0]).gradient(np.array([3.0]))[1].round(6)
    array([6.])
    """
    if not callable(f):
        raise InvalidValue(f"function({f!r}): expected a callable that takes an array and gives a number")
    if gradient is not None and not callable(gradient):
        raise InvalidValue(f"gradient={gradient!r}: expected a callable that takes an array and gives one of its shape")
    begin = _finite("start", start)
    name = getattr(f, "__name__", "function")
    return FunctionProblem(name, f, gradient, begin, None, f"fl.function({name}, start={begin.tolist()!r})")


def _finite(name: str, values: Any) -> np.ndarray:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"{name}={values!r}: expected numbers") from error
    if array.size == 0 or not np.isfinite(array).all():
        raise InvalidValue(f"{name}={values!r}: expected at least one number, all finite")
    return array


def _vector(name: str, values: Any) -> np.ndarray:
    array = _finite(name, values)
    if array.ndim != 1:
        raise InvalidValue(f"{name} has shape {array.shape}: expected a list of numbers")
    return array


def _noise(rows: int, size: int, scale: float, seed: int) -> np.ndarray | None:
    """Fixed noise with mean zero and standard deviation `scale` along every axis, exactly."""
    if scale == 0:
        return np.zeros((rows, size))
    made = np.random.default_rng(seed).standard_normal((rows, size))
    made -= made.mean(axis=0)
    return made * (scale / made.std(axis=0))


def _differences(f: Callable[[np.ndarray], float], w: np.ndarray) -> np.ndarray:
    g = np.empty_like(w)
    for j in range(w.size):
        h = 6e-6 * max(1.0, abs(w[j]))  # cube root of the rounding unit: the two errors balance
        up, down = w.copy(), w.copy()
        up[j] += h
        down[j] -= h
        g[j] = (f(up) - f(down)) / (up[j] - down[j])
    return g
