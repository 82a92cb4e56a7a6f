"""What a model that learns by safe steps has learnt: its arrays, what they mean in the columns' own units, and how they are kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fallline.engines.linear import safe_kernels as k
from fallline.errors import InvalidValue
from fallline.problems.losses import SOFTMAX, Loss


class SafeState:
    """The state of a `SafeOnline`; `safe_kernels` tells how it lies in memory.

    Args:
        loss: the loss.
        features, sparse, outputs: of a row.
        rate: multiplies the safe rate.
        weight_decay, l1: the penalty weight_decay/2 ||w||^2 + l1 ||w||_1 on the weights in the view.
        scaled: whether columns are standardised; else they are taken as they are.
        intercept: whether there is one; without, columns are divided by their root mean square and not centred.
        age: weight of rows that were learnt elsewhere before.
    """

    def __init__(
        self, loss: Loss, features: int, outputs: int, *, sparse: int = 0, rate: float = 1.0, weight_decay: float = 0.0, l1: float = 0.0,
        scaled: bool = True, intercept: bool = True, age: float = 0.0,
    ):  # fmt: skip
        self.step, self.rate, self.weight_decay, self.l1 = 0, rate, weight_decay, l1
        self._law = np.array([0, 0, 0, weight_decay, l1, scaled, intercept], np.float64)
        self._told(loss)
        self._dense = np.zeros((k.WEIGHTS + outputs, features))
        self._slots = np.zeros((sparse, self._head + outputs))
        self._b, self._totals = np.zeros((2, outputs)), np.array([0.0, 0.0, age])

    def _told(self, loss: Loss) -> None:
        self.loss = loss
        self._law[[k.CODE, k.PARAMETER, k.STEP]] = loss.code, loss.parameter, self.rate / (loss.curvature or 1.0)

    @property
    def _head(self) -> int:
        """Where a slot's weights begin."""
        return k.RATE + 1 if self.weight_decay or self.l1 else k.KNOWN + 1

    @property
    def features(self) -> int:
        return self._dense.shape[1]

    @property
    def outputs(self) -> int:
        return self._b.shape[1]

    @property
    def sparse(self) -> int:
        return len(self._slots)

    @property
    def base(self) -> np.ndarray:
        """The intercepts beside `view_coef`, (outputs,)."""
        return self._b[0].copy()

    @property
    def means(self) -> np.ndarray:
        """Mean of each column so far, (features,)."""
        return self._dense[k.MEAN].copy()

    @property
    def deviations(self) -> np.ndarray:
        """Standard deviation of each column so far, (features,); 0 where it was constant."""
        seen = self._dense[k.SEEN]
        found = np.sqrt(self._dense[k.SPREAD] / np.where(seen > 0, seen, 1))
        return np.where(found > k.FLAT * np.abs(self._dense[k.MEAN]), found, 0.0)

    @property
    def scales(self) -> np.ndarray:
        """Root mean square of each sparse feature where it was seen, (sparse,); 0 where it never was."""
        return np.sqrt(self._slots[:, k.SQUARE] / np.maximum(self._slots[:, k.KNOWN], 1e-300))

    @property
    def view_coef(self) -> np.ndarray:
        """Coefficients of the standardised columns, [features, outputs]."""
        return self._dense[k.WEIGHTS :].T.copy()

    @property
    def coef(self) -> np.ndarray:
        """Coefficients in the columns' own units: (features,), or [features, outputs] of a softmax or several outputs."""
        scale = self.deviations
        return self._shaped(self.view_coef / np.where(scale > 0, scale, np.inf)[:, None])

    @property
    def sparse_coef(self) -> np.ndarray:
        """Coefficients of the sparse features in their own units: (sparse,), or [sparse, outputs]."""
        scale = self.scales
        return self._shaped(self._in_slots() / np.where(scale > 0, scale, np.inf)[:, None])

    @property
    def intercept(self) -> np.ndarray:
        """The constant beside `coef`: () or (outputs,)."""
        scale = self.deviations
        shift = (self._dense[k.MEAN] / np.where(scale > 0, scale, np.inf)) @ self._dense[k.WEIGHTS :].T
        whole = self._b[0] - shift
        return whole[0] if len(whole) == 1 and self.loss.code != SOFTMAX else whole

    def _shaped(self, coef: np.ndarray) -> np.ndarray:
        return coef[:, 0] if coef.shape[1] == 1 and self.loss.code != SOFTMAX else coef

    def _in_slots(self) -> np.ndarray:
        """Weights of the sparse features, with the penalty up to now."""
        w = self._slots[:, self._head :]
        if not (self.weight_decay or self.l1):
            return w
        time = ((self._totals[0] - self._slots[:, k.SINCE]) * self._slots[:, k.RATE])[:, None]
        lost = -np.expm1(-self.weight_decay * time)
        less = self.l1 * (lost / self.weight_decay if self.weight_decay else time)
        return np.copysign(np.maximum(np.abs(w) * (1 - lost) - less, 0.0), w)

    # ---------------------------------------------------------------------------------------------- other sizes

    def remade(self, outputs: np.ndarray, loss: Loss | None = None) -> None:
        """Other outputs, each a mixture of those before: for classes that have appeared.

        Args:
            outputs: [outputs, outputs before], the weights' linear map.
            loss: another loss, or the same.
        """
        if loss is not None:
            self._told(loss)
        slots = self._in_slots() @ outputs.T
        self._slots = np.hstack([self._slots[:, : self._head], slots])
        if self._head > k.KNOWN + 1:
            self._slots[:, k.SINCE] = self._totals[0]
        self._dense = np.vstack([self._dense[: k.WEIGHTS], outputs @ self._dense[k.WEIGHTS :]])
        from_before = outputs != 0
        errors = np.where(from_before.any(axis=1), from_before @ self._b[1], self._b[1].mean() if self._b.shape[1] else 0.0)
        self._b = np.array([outputs @ self._b[0], errors])

    def goes_on(self, other: SafeState) -> None:
        """Take over what another model of the same columns knows of them and of time, not its weights."""
        self._dense[: k.WEIGHTS], self._totals[:] = other._dense[: k.WEIGHTS], other._totals
        self._slots[:, : k.KNOWN + 1] = other._slots[:, : k.KNOWN + 1]
        if self._head > k.KNOWN + 1:
            self._slots[:, k.SINCE] = self._totals[0]
        if self._b.shape == other._b.shape:
            self._b[1] = other._b[1]
        self.step = other.step

    def _lengthened(self, sparse: int) -> None:
        """Room for more sparse features."""
        if sparse > len(self._slots):
            size = max(sparse, min(2 * len(self._slots), sparse + (1 << 16)))
            self._slots = np.vstack([self._slots, np.zeros((size - len(self._slots), self._slots.shape[1]))])

    # ------------------------------------------------------------------------------------------------- on disk

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that it has learnt, copies; `restore` is its inverse."""
        return {"dense": self._dense.copy(), "slots": self._slots.copy(), "b": self._b.copy(), "totals": self._totals.copy()}

    def _restored(self, step: int, arrays: Mapping[str, np.ndarray], outputs: int) -> None:
        expected = {"dense": (k.WEIGHTS + outputs, self.features), "slots": (len(self._slots), self._head + outputs), "b": (2, outputs), "totals": (3,)}
        for name, shape in expected.items():
            if name not in arrays or arrays[name].shape != shape or arrays[name].dtype != np.float64:
                raise InvalidValue(f"the state's array {name!r} is not float64 {list(shape)}: it is of another model")
        self.step = step
        self._dense, self._slots, self._b, self._totals = (np.ascontiguousarray(arrays[name]).copy() for name in expected)
