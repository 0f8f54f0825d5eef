"""Sharing: the processes of a job, whose model is sharded between them, measure each matrix together, once.

ranks       `Ranks`: the processes (ranks) that measure together, what travels between them, and who of them is missing
missing     which of them are missing, and why, in words
notes       what the ranks write for each other in the job's store
"""

from .measurer import SharedMeasurer
from .ranks import Ranks
from .share import Role, role_of, share_out

__all__ = ["Ranks", "Role", "SharedMeasurer", "role_of", "share_out"]
