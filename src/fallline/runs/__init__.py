"""Runs: what a descent left, in memory and in its folder, while it goes on and after."""

from fallline.runs.run import DOCUMENTS, TENSORS, Reader, Run, found_from_json, found_to_json, load, versions

__all__ = ["DOCUMENTS", "TENSORS", "Reader", "Run", "found_from_json", "found_to_json", "load", "versions"]
