"""Where a row alone would take its score: the exact flow of gradient descent on one row, in closed form.

A step of size lr on a row of weight h moves the score by -lr h |x|^2 slope. Made of infinitely many small steps instead, it
follows dz/dt = -slope(z) for a time H = lr h |x|^2, which

- ends where it would have ended had the row come twice with half the weight (Karampatziakis and Langford, 2011);
- never passes the score at which the row's loss is least, whatever lr and |x| are.

    least_squares   z = y + (z0 - y) e^-H
    logistic        m + e^m = m0 + e^m0 + H, m the margin; by Newton from above
    huber           straight on at slope delta as far as |z - y| = delta, then as least_squares
    hinge           m = min(m0 + H, 1)
    squared_hinge   1 - m = (1 - m0) e^-2H
    modified_huber  straight on at slope 4 as far as m = -1, then as squared_hinge
    perceptron      m = min(m0 + H, 1) where m0 <= 0, else m0: its loss is 0 from m = 0 on and has no point to stop at
    quantile        straight on at slope q from below, 1 - q from above, as far as y
    epsilon_insensitive, squared_epsilon_insensitive
                    o = max(o0 - H, 0), or o0 e^-2H: o = |z - y| - epsilon where that is above 0
    poisson         e^-z = e^-z0 e^-yH + (1 - e^-yH) / y
    softmax         e^-z_k = e^-z_k0 + B for every class k but the row's own, whose score rises by what the others lose;
                    B by Newton (see `softmax_flow`)

The penalty l2/2 w^2 + l1 |w| has a flow too, for a time T: |w| = max(0, (|w0| + l1/l2) e^(-l2 T) - l1/l2), w never changing sign
(`penalised`); it is what proximal steps become when they are made infinitely small.
"""

from __future__ import annotations

import math

import numpy as np

from fallline.compiled import kernel
from fallline.engines.linear.scalar import (
    HINGE,
    HUBER,
    INSENSITIVE,
    LOGISTIC,
    MODIFIED_HUBER,
    PERCEPTRON,
    POISSON,
    QUANTILE,
    SQUARED,
    SQUARED_INSENSITIVE,
)

NODES = 16
"""The most Gauss-Legendre nodes: n of them are exact for products of 2n - 1 classes, and 16 are for more to rounding."""


def _rules() -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1] and shares of the rules of 0 to NODES nodes, a row each."""
    points, shares = np.zeros((NODES + 1, NODES)), np.zeros((NODES + 1, NODES))
    for n in range(1, NODES + 1):
        at, share = np.polynomial.legendre.leggauss(n)
        points[n, :n], shares[n, :n] = 0.5 * (at + 1), 0.5 * share
    return points, shares


_POINTS, _SHARES = _rules()
_STEEP = 550.0
"""From this gap on the row's own class has no probability: e^-gap is nothing beside 1."""


def _logaddexp(a, b):
    top, low = max(a, b), min(a, b)
    return top + math.log1p(math.exp(low - top)) if low > -np.inf else top


logaddexp = kernel(_logaddexp, fastmath=False)


def _margin_flow(m, H):
    """The d >= 0 with d + e^m (e^d - 1) = H. The function is convex and both starts lie above its root, so Newton comes down to it."""
    grown = math.exp(m) if m < 700 else np.inf
    if grown == np.inf:
        return 0.0
    d = min(H, math.log1p(H / grown)) if grown > 0 else H
    for _ in range(60):
        step = (d + grown * math.expm1(d) - H) / (1 + grown * math.exp(d))
        d -= step
        if step <= 1e-16 * d:
            break
    return max(d, 0.0)


margin_flow = kernel(_margin_flow, fastmath=False)


@kernel
def _number_flow(code, parameter, z, y, H):
    e = z - y
    size, side = abs(e), 1.0 if e > 0 else -1.0
    if code == HUBER:
        if size > parameter:
            straight = min(H, size / parameter - 1)
            size -= parameter * straight
            H -= straight
        return y + side * size * math.exp(-H)
    if code == QUANTILE:
        return y + side * max(size - (1 - parameter if e > 0 else parameter) * H, 0.0)
    over = size - parameter
    if over <= 0:
        return z
    return y + side * (parameter + (max(over - H, 0.0) if code == INSENSITIVE else over * math.exp(-2 * H)))


def _score_flow(code, parameter, z, y, H):
    """The score after time H on one row, from `z`; see the formulas above. The softmax has its own."""
    if code == SQUARED:
        return y + (z - y) * math.exp(-H)
    if code == POISSON:
        if y == 0:
            return -logaddexp(-z, math.log(H))
        return -logaddexp(-z - y * H, math.log(-math.expm1(-y * H) / y))
    if code in (HUBER, QUANTILE, INSENSITIVE, SQUARED_INSENSITIVE):
        return _number_flow(code, parameter, z, y, H)
    side = 2 * y - 1
    m = side * z
    if code == LOGISTIC:
        return z + side * margin_flow(m, H)
    if m >= 1 or (code == PERCEPTRON and m > 0):
        return z
    if code in (HINGE, PERCEPTRON):
        return side * min(m + H, 1.0)
    if code == MODIFIED_HUBER and m < -1:
        straight = min(H, -0.25 * (1 + m))
        m += 4 * straight
        H -= straight
    return side * (1 - (1 - m) * math.exp(-2 * H))


score_flow = kernel(_score_flow, fastmath=False)


def _penalised(w, T, l2, l1):
    """A weight after time T of the penalty l2/2 w^2 + l1 |w| alone; see above."""
    shrunk = l2 * T
    lost = -math.expm1(-shrunk)
    size = abs(w) * (1 - lost) - l1 * (lost / l2 if shrunk > 1e-300 else T)
    if not size > 0:
        return 0.0
    return size if w > 0 else -size


penalised = kernel(_penalised, fastmath=False)


def _reach(B, gaps, y, own, nodes):
    """The time after which the flow has come to B, and dtime/dB; see `softmax_flow`."""
    time, rest, product = 0.0, 0.0, 1.0
    for k in range(len(gaps)):
        if k != y:
            time += math.log1p(B * gaps[k])
            rest += gaps[k] / (1 + B * gaps[k])
            product *= 1 + B * gaps[k]
    area = 0.0
    for i in range(nodes):
        height = 1.0
        for k in range(len(gaps)):
            if k != y:
                height *= 1 + B * _POINTS[nodes, i] * gaps[k]
        area += _SHARES[nodes, i] * height
    return time + own * B * area, own * product + rest


reach = kernel(_reach, fastmath=False)


def _among_others(out, y, top, H):
    """The flow while the row's own class has no probability: its score rises by H, which the others lose.

    Each loses log(1 + e^(u + z_k - z_top)), and u makes the sum H; the sum is convex in u, and at u = H not below H.
    """
    u = H
    for _ in range(100):
        lost, rate = 0.0, 0.0
        for k in range(len(out)):
            if k != y:
                lost += logaddexp(0.0, u + out[k] - out[top])
                rate += 1 / (1 + math.exp(-(u + out[k] - out[top]))) if u + out[k] - out[top] > -700 else 0.0
        step = (lost - H) / rate
        u -= step
        if not step > 1e-15 * max(abs(u), 1.0):
            break
    height = out[top]
    for k in range(len(out)):
        if k != y:
            out[k] -= logaddexp(0.0, u + out[k] - height)
    out[y] += H


among_others = kernel(_among_others, fastmath=False)


def _softmax_flow(z, y, H, out):
    """The scores after time H on one row of class `y`, from `z`, written into `out`.

    With the highest of the other scores set to 0 at the start, a_k = e^(z_k - z_top) and o = e^(z_y - z_top), every other class
    has e^-z_k = 1/a_k + B, and

        H = sum_k log(1 + B a_k) + o * integral from 0 to B of prod_k (1 + b a_k) db,

    a rising function of one unknown. B lies below H/o and below e^H - 1; dH/dB, the sum of e^scores, is convex in B, so
    its largest value over that stretch bounds B from below.
    """
    K, top = len(z), -1
    for k in range(K):
        out[k] = z[k]
        if k != y and (top < 0 or z[k] > z[top]):
            top = k
    if top < 0:  # one class alone has its probability already
        return
    while H > 0 and out[top] - out[y] > _STEEP + 50:
        straight = min(H, 0.5 * (out[top] - out[y] - _STEEP))  # the gap closes by twice that at most
        among_others(out, y, top, straight)
        H -= straight
        for k in range(K):
            if k != y and out[k] > out[top]:
                top = k
    ahead = out[y] - out[top]
    if H <= 0 or ahead > 700:
        return
    own, gaps, height = math.exp(ahead), np.empty(K), out[top]
    for k in range(K):
        gaps[k] = math.exp(out[k] - height) if k != y else 0.0
    high = min(min(H / own, 1e300), math.expm1(min(H, 700.0)) if H < 700 else 1e300)
    if high <= 0:
        return
    nodes = min(NODES, (K + 1) // 2)
    first, last = reach(0.0, gaps, y, own, 0)[1], reach(high, gaps, y, own, 0)[1]
    low, B = H / max(first + own, last), min(high, H / (first + own))
    for _ in range(200):
        time, rate = reach(B, gaps, y, own, nodes)
        if time > H:
            high = B
        else:
            low = B
        if not abs(time - H) > 1e-14 * H:
            break
        following = B - (time - H) / rate
        if not low < following < high:
            following = math.sqrt(low) * math.sqrt(high)
        if following == B:
            break
        B = following
    for k in range(K):
        if k != y:
            lost = math.log1p(B * gaps[k])
            out[k] -= lost
            out[y] += lost


softmax_flow = kernel(_softmax_flow, fastmath=False)
