"""What runs on a real card only: ``make test-cuda``."""
