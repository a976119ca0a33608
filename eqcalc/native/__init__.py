"""The C++ library: edges, convolutions and products; how it is built, kept, loaded and found.

It makes nothing possible that torch alone could not do; it is faster.
"""
