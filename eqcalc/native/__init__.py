"""The C++ library: edges, convolutions and products; how it is built, kept, loaded and found.

Except for the exchange between ranks (:mod:`eqcalc.native.exchange`) it makes nothing possible that
torch alone could not do; it is faster. Whether it is loaded
changes no number of a model that was not compiled with it: what others take from it, the
edges, forces and virials of :mod:`eqcalc.native.operators`, is the same in every bit.
"""
