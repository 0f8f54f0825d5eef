"""Probing: the assumptions of the proofs about arithmetic, tested on a device by values with known exact answers.

probe       tests all of them: what `fastrank doctor --probe` prints
require     refuses certificates where rounding or products fail, before the first one
rounding    single operations, FMA and sums; `products` of matrices by PyTorch; `counts`, in all `ways`
exact       integers, which no rounding mode touches
"""

from .finding import Finding
from .probe import probe
from .required import require

__all__ = ["Finding", "probe", "require"]
