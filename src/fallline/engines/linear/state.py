"""How the registers of a linear model lie in memory while the linear engine runs.

Outside, registers are flat vectors (`history.State`). Inside, coefficients are two-dimensional: class-major for
dense rows, feature-major for sparse ones; the intercept's registers stand apart, [4, outputs]. What a kernel
carries from one segment to the next lives here too, so that a plan cut anywhere gives the same bits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fallline.engines.linear import sparse
from fallline.history import Packed, State
from fallline.layout import Layout
from fallline.rows import Registers

PARTS = ("w", "v", "s", "a", "b", "ahead", "scale", "debt", "moved")
"""The arrays of a `LinearState`."""


@dataclass
class Lazy:
    """What untouched features of sparse data still owe: `stamps` by feature, and the maps since the block began."""

    table: np.ndarray
    stamps: np.ndarray
    begin: int
    constants: bytes
    needs: Registers

    def copy(self) -> Lazy:
        return replace(self, table=self.table.copy(), stamps=self.stamps.copy())


@dataclass
class LinearState:
    """The registers in the engine's own arrangement; `registers()` gives them flat and up to date.

    Args:
        step: the next update.
        w, v, s, a: coefficients' registers, [outputs, features] (dense rows) or [features, outputs] (sparse rows);
            None for what no row has needed yet: v and s stand for zeros then, a for a copy of w.
        b: the intercept's registers w, v, s, a: [4, outputs].
        ahead: score of the next row and whether it holds (kernel `gram`).
        scale: the factor of all coefficients (kernel `scaled`).
        debt: the soft thresholds so far, which lie on top of the coefficients that have paid them (kernel `scaled`), and the
            steps since all were paid.
        lazy: what untouched features owe (kernel `lazy`), or None.
        base: of columns that are seen less a base (`problems.view`): float64 [features]; else None.
        moved: such columns, between the steps of kernels `scaled` and `lazy`: float64 [4, 2, outputs], for each register how many times the
            base is still to be taken off it, and its product with the base. None where registers are what they say.
    """

    step: int
    w: np.ndarray
    v: np.ndarray | None
    s: np.ndarray | None
    a: np.ndarray | None
    b: np.ndarray
    class_major: bool
    layout: Layout
    ahead: np.ndarray = field(default_factory=lambda: np.zeros(2))
    scale: np.ndarray = field(default_factory=lambda: np.ones(1))
    lazy: Lazy | None = None
    debt: np.ndarray = field(default_factory=lambda: np.zeros(2))
    base: np.ndarray | None = None
    moved: np.ndarray | None = None

    @classmethod
    def of(
        cls, state: State, layout: Layout, outputs: int, class_major: bool, dtype: np.dtype, base: np.ndarray | None = None
    ) -> LinearState:
        """Arrange flat registers (copied) for the kernels."""
        size = layout.parameters[0].size
        parts, b = [], np.zeros((4, outputs), dtype)
        for which, register in enumerate((state.w, state.v, state.s, state.a)):
            if register is None:
                parts.append(None)
                b[which] = np.asarray(state.w)[size:] if which == 3 and layout.size > size else 0
                continue
            coef = np.asarray(register[:size]).reshape(-1, outputs)
            parts.append(np.array(coef.T if class_major else coef, dtype, order="C"))
            if layout.size > size:
                b[which] = register[size:]
        return cls(state.step, *parts, b, class_major, layout, base=base)

    def copy(self) -> LinearState:
        """An independent copy."""
        arrays = {n: None if getattr(self, n) is None else getattr(self, n).copy() for n in PARTS}
        return replace(self, **arrays, lazy=None if self.lazy is None else self.lazy.copy())

    def pack(self) -> Packed:
        """Everything, what untouched features owe among it, as plain things."""
        arrays = {n: getattr(self, n).copy() for n in PARTS if getattr(self, n) is not None}
        values: dict[str, Any] = {"arranged": True, "class_major": self.class_major}
        if self.lazy is not None:
            arrays |= {"lazy.table": self.lazy.table.copy(), "lazy.stamps": self.lazy.stamps.copy()}
            values["lazy"] = {"begin": self.lazy.begin, "constants": self.lazy.constants.hex(), "needs": asdict(self.lazy.needs)}
        return Packed(self.step, arrays, values)

    @classmethod
    def unpack(cls, packed: Packed, layout: Layout, base: np.ndarray | None = None) -> LinearState:
        """The state that was packed."""
        held = {n: packed.arrays[n].copy() if n in packed.arrays else None for n in PARTS}
        owed = packed.values.get("lazy")
        lazy = None
        if owed is not None:
            tables = (packed.arrays[n].copy() for n in ("lazy.table", "lazy.stamps"))
            lazy = Lazy(*tables, owed["begin"], bytes.fromhex(owed["constants"]), Registers(**owed["needs"]))
        return cls(packed.step, **held, class_major=packed.values["class_major"], layout=layout, lazy=lazy, base=base)

    def settle(self) -> None:
        """Bring untouched features of sparse data up to date, in place."""
        if self.lazy is not None:
            now = self.step - self.lazy.begin
            sparse.settle(self.lazy.table, self.lazy.stamps, now, self.w, *self.present(self.lazy.needs))
            self.lazy = None
        if self.moved is not None and self.base is not None:
            for register, times in zip((self.w, self.v, None, self.a), self.moved[:, 0], strict=True):
                if register is not None:
                    register -= np.multiply.outer(self.base, times).astype(register.dtype)
            self.moved, self.debt[1] = None, 0
        if self.debt[0]:
            sparse.fold(self.w, self.scale[0], self.debt, 1.0, None, None)
            self.scale[0] = 1
        if self.scale[0] != 1:
            self.w *= self.w.dtype.type(self.scale[0])
            self.scale[0] = 1

    @property
    def is_behind(self) -> bool:
        """Whether coefficients are not what `w` says: a factor, thresholds or steps are owed."""
        return bool(self.scale[0] != 1 or self.debt[0]) or self.lazy is not None or self.moved is not None

    def moving(self) -> np.ndarray | None:
        """`moved`, for a kernel that lets it run on: from registers that are what they say, it begins with their products with the base."""
        if self.base is not None and self.moved is None:
            self.moved = np.zeros((4, 2, self.w.shape[1]))
            for register, at in zip((self.w, self.v, None, self.a), self.moved, strict=True):
                if register is not None and register.any():
                    at[1] = self.base @ register
        return self.moved

    def reordered(self) -> None:
        """The rows to come are others than was known: the score of the next one no longer holds."""
        self.ahead[:] = 0

    def present(self, needs: Registers) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, float | None]:
        """v, s, a and the mark of a soft threshold, as kernels take them: None for what the rows do not need."""
        if needs.v and self.v is None:
            self.v = np.zeros_like(self.w)
        if needs.s and self.s is None:
            self.s = np.zeros_like(self.w)
        if needs.a and self.a is None:
            self.a = self.w.copy()
        return (
            self.v if needs.v else None,
            self.s if needs.s else None,
            self.a if needs.a else None,
            1.0 if needs.threshold else None,
        )

    def registers(self) -> State:
        """The registers as flat vectors, every feature up to date (a copy; this state goes on as it was)."""
        if self.is_behind:
            settled = self.copy()
            settled.settle()
            return settled.registers()
        size = self.layout.parameters[0].size
        flats = []
        for which, coef in enumerate((self.w, self.v, self.s, self.a)):
            if coef is None:
                flats.append(None)
                continue
            flat = np.empty(self.layout.size, coef.dtype)
            flat[:size] = (coef.T if self.class_major else coef).reshape(-1)
            flat[size:] = self.b[which] if self.layout.size > size else 0
            flats.append(flat)
        return State(self.step, *flats)
