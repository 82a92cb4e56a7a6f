"""Plans: what a descent will do, update by update, as pure data."""

from fallline.plan.plan import Plan

__all__ = ["Plan"]
