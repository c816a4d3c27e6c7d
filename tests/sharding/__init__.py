"""Tests of the loss over shards of the classes."""
