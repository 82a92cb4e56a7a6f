"""The command line: `fallline fit`, `find-lr`, `plan`, `predict`, `report`."""

from fallline.cli.main import main

__all__ = ["main"]
