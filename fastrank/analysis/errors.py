"""AnalyzeError, which every module of this package may raise."""


class AnalyzeError(ValueError):
    """A checkpoint or a model cannot be analysed. The message names the file, or the weight, and says what to do."""
