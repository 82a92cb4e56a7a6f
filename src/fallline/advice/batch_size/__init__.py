"""The batch size: what fits, what is fast, what the noise of the gradient asks for, and a check.

`capacity` memory; `throughput` rows a second; `noise` the estimator; `moments` the noise along a short run; `law` updates by
size; `branches` the check; `choice` from all of it to one size; `find` the search; `found` what it gives.
"""

from fallline.advice.batch_size.find import find_batch_size
from fallline.advice.batch_size.found import FoundBatchSize

__all__ = ["FoundBatchSize", "find_batch_size"]
