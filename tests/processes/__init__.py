"""Forks, pools, servers and many threads, in real processes."""
