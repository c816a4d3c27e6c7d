"""Tests of the GPU backend: in a simulation everywhere, on a card where there is one."""
