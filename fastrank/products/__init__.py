"""Products and differences of weights, for which a model has no parameter: functions for `track` of `RankTracker`.

core           a small matrix with the singular values of the product of two thin factors, which is not formed
lora           B A of every LoRA adapter
attention_qk   W_Q^T W_K of every attention head
attention_ov   W_O W_V of every attention head

`fastrank.difference` tracks W - W_0. Each returns a dictionary, so that several are tracked together:

    RankTracker(model, optimizer, track={**attention_qk(model), **attention_ov(model)})
"""

from .attention import attention_ov, attention_qk
from .core import core
from .difference import difference
from .lora import lora

__all__ = [
    "attention_ov",
    "attention_qk",
    "core",
    "difference",
    "lora",
]
