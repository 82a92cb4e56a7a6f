"""The linear engine: compiled descent for linear models, dense and sparse.

`scalar` the law and the losses for one number; `dense` and `sparse` the kernels; `state` how registers lie in
memory; `engine` which kernel runs a segment; `online` one row at a time from outside, `safe` by steps that need no learning rate.
"""

from fallline.engines.linear.engine import LinearEngine
from fallline.engines.linear.online import Online, online
from fallline.engines.linear.safe import SafeOnline

__all__ = ["LinearEngine", "Online", "SafeOnline", "online"]
