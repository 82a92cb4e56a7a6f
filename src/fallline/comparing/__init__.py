"""Variants of a descent side by side: contenders, what they read and reached, one table."""

from fallline.comparing.compare import Comparison, compare

__all__ = ["Comparison", "compare"]
