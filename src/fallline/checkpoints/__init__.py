"""Checkpoints: one new folder each, whole or not there, verified before anything is believed."""

from fallline.checkpoints.contents import Contents, Damaged, verified, whole
from fallline.checkpoints.store import Checkpoint, Checkpoints

__all__ = ["Checkpoint", "Checkpoints", "Contents", "Damaged", "verified", "whole"]
