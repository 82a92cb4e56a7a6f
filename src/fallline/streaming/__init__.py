"""Learning from a stream of rows: read, predict, learn, keep; see `stream.learn`."""

from fallline.streaming.stream import Asked, learn

__all__ = ["Asked", "learn"]
