"""The figures of a report.

Each kind of figure has a module whose `draw` makes the picture, its caption and the table of what it shows; scales,
colours and panels are shared. The report has all of them drawn and written by the module `draw`.
"""
