"""A GPU in plain Python: the same kernel bodies, one coroutine a thread, every access checked."""
