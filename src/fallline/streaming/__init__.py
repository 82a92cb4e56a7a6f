"""Learning from a stream of rows: read, predict, learn, keep; see `stream.learn`."""

from fallline.streaming.learner import Asked
from fallline.streaming.stream import learn

__all__ = ["Asked", "learn"]
