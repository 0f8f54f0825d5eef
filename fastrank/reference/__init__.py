"""Plain PyTorch twin of every kernel: the specification, and the CPU path."""
