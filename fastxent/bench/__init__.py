"""The benchmark suite: fastxent beside its peers and beside what the machine can do.

`fastxent bench` measures one shape with it, the files of ``benchmarks/`` all of them;
docs/benchmarks.md says how to read the numbers. Frameworks are imported in the file of their peer
and nowhere else, and what is not installed is left out with its reason.
"""
