"""How long an action will take: the caller's guess, corrected by what actions of its kind took."""

import math

from .types import Amdahl, Curve, Shape

MAX_KINDS = 10_000


class _Kind:
    __slots__ = ("by_units", "log_bias", "seen")

    def __init__(self):
        self.log_bias = 0.0
        self.seen = 0
        self.by_units: dict[int, tuple[int, float]] = {}  # m: (count, mean seconds per estimated second)


class DurationModel:
    """
    T(1) of a kind is `est_s` times an EWMA (of the logarithm) of actual over estimated; without `est_s`, the EWMA of the
    actual T(1), and `default_s` before the first one ends.

    Args:
        decay: weight of the newest observation, 0 < decay <= 1.
    """

    def __init__(self, decay: float = 0.1, default_s: float = 1.0):
        self.decay = decay
        self.default_s = default_s
        self._kinds: dict[tuple[str, bool], _Kind] = {}

    def t1_s(self, kind: str, est_s: float | None) -> float:
        """Estimated seconds on one unit."""
        known = self._kinds.get((kind, est_s is None))
        base = self.default_s if est_s is None else est_s
        return base if known is None or not known.log_bias else base * math.exp(known.log_bias)

    def observe(self, kind: str, est_s: float | None, shape: Shape, units: int, duration_s: float):
        """An action of this kind took `duration_s` on `units`."""
        base = self.default_s if est_s is None else est_s
        if duration_s <= 0 or base <= 0:
            return
        known = self._kinds.get((kind, est_s is None))
        if known is None:
            while len(self._kinds) >= MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            known = self._kinds[kind, est_s is None] = _Kind()
        share = shape.curve.share(units) if units > 1 else 1.0
        log_ratio = math.log(duration_s / (share * base))
        weight = max(self.decay, 1 / (known.seen + 1))
        known.log_bias += weight * (log_ratio - known.log_bias)
        known.seen += 1
        if shape.fitted:
            count, mean = known.by_units.get(units, (0, 0.0))
            known.by_units[units] = count + 1, mean + (duration_s / base - mean) / (count + 1)

    def curve(self, kind: str, est_s: float | None, shape: Shape) -> Curve:
        """The curve of the range; for `curve=None`, Amdahl with s from least squares of T on (1, 1/m)."""
        known = self._kinds.get((kind, est_s is None))
        if not shape.fitted or known is None or len(known.by_units) < 2:
            return shape.curve
        counts = [count for count, _ in known.by_units.values()]
        x = [1 / units for units in known.by_units]
        y = [mean for _, mean in known.by_units.values()]
        total = sum(counts)
        mean_x = sum(c * a for c, a in zip(counts, x, strict=True)) / total
        mean_y = sum(c * b for c, b in zip(counts, y, strict=True)) / total
        slope = sum(c * (a - mean_x) * (b - mean_y) for c, a, b in zip(counts, x, y, strict=True))
        slope /= sum(c * (a - mean_x) ** 2 for c, a in zip(counts, x, strict=True))
        serial_part = mean_y - slope * mean_x
        whole = serial_part + slope
        return Amdahl(min(1.0, max(0.0, serial_part / whole))) if whole > 0 else shape.curve
