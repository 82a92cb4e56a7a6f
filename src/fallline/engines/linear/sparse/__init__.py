"""Kernels for CSR rows. Only the features of a row are touched; what the others missed is made up exactly.

Weights lie feature-major, [features, outputs]: one index load serves every class. Two exact forms:

- *Scaled*: without registers an untouched weight only shrinks, w' = keep*w. All weights share one factor,
  w = scale * held, so that a step touches its own features alone. Soft thresholds compose by addition: with
  debt = sum of threshold/scale since the start, held' = max(0, |held| - (debt now - debt when it was last touched)).
  What a weight has paid is kept on top of it: u = held + sign(held)*debt says both in one number, and
  held = u - clamp(u, -debt, debt) at any later time: a row costs no memory more than without thresholds.
- *Lazy*: with registers an untouched feature obeys a linear map of (w, v, a), the law at gradient zero. Each feature
  has a stamp, the step up to which it is current; the product of the maps since then is applied when it is touched.
  The maps are read off the law itself, so every linear rule is covered and none is named. Products over 1, 2, 4 ...
  steps are tabled (`lift`); only contractions are multiplied, so nothing overflows.

Columns that are seen less a base (`problems.view`), x~ = e - base: every step moves every weight, all along the same direction. A
register is held as r - C*base, and U = r.base is kept beside C; both obey the law of a coefficient, with the sum of the slopes as gradient
of C, and of the slopes times e.base as that of U. Then w.x~ = r.e - C*(e.base) - U + C*base.base costs what r.e costs.

Exactness needs a gradient that is zero on untouched features; soft thresholds compose without registers only, and a
second moment without momentum only (`engine.py` refuses the rest by name).

Column numbers and row starts come as *unsigned* integers: a signed one may count from the end in Python, and the test for
that in each of the inner loops cost 40 % of a row.
"""

from fallline.engines.linear.sparse.eager import eager, slopes_along, sparse_lanes
from fallline.engines.linear.sparse.lazy import lazy
from fallline.engines.linear.sparse.maps import BASE, MAPS, lift, powers, settle
from fallline.engines.linear.sparse.scaled import fold, norms, scaled

__all__ = ["BASE", "MAPS", "eager", "fold", "lazy", "lift", "norms", "powers", "scaled", "settle", "slopes_along", "sparse_lanes"]
