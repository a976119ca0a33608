"""From labelled frames to a trained potential: the training file, the run, its folder, its export.

What belongs here: everything that only training a potential needs; running a model needs none
of it, nor Lightning. Nothing here knows one architecture from another.
"""
