"""The benchmark on a graphics card: ``make bench-cuda``.

Everything is timed on the card's own clock, turn and turn about, on data of 2 GB and more, and
given as a share of what a plain copy on the same card reached in the same rounds.
"""
