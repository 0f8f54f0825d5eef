"""Device code and its launchers: one file an operation, no policy, no validation."""
