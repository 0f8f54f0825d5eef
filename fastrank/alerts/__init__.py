"""Alerts: rules that look at each row of a history when it has arrived on the host, and what is done where one holds.

    RankTracker(model, optimizer, alerts=[fastrank.alerts.below(0.1), fastrank.alerts.nonfinite("stop")])

`below`, `halved` and `nonfinite` are rules; one of one's own is a subclass of `Rule` with one method. Rows arrive some
steps after they were measured: nothing waits for them.
"""

from .alerts import Alerts
from .rule import Alert, AlertWarning, Rows, Rule
from .rules import below, halved, nonfinite

__all__ = [
    "Alert",
    "AlertWarning",
    "Alerts",
    "Rows",
    "Rule",
    "below",
    "halved",
    "nonfinite",
]
