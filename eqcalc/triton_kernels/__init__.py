"""The convolutions of tabulated networks on a GPU, in Triton.

Each kernel makes the whole sum of one atom, in the order of its edges: the sums of the receivers,
and for the derivatives those of the senders. Nothing is added by two programs at once, so numbers
are the same in every bit at every run, and nothing of size edges × channels is written. What they
compute stands in :mod:`eqcalc.tabulated.convolutions`; the portable sums there are what they are
tested against, and give their second derivatives.

``operators.py`` is the way in, and imports without Triton, which comes with torch for CUDA.
"""
