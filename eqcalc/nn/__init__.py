"""Building blocks that the architectures share: one small idea per module.

What belongs here: a layer, basis or check that several architectures use, or may use; it takes
tensors, and knows no architecture, potential or file. What one paper alone has stays in that
paper's module of :mod:`eqcalc.architectures`; rotations of features are in :mod:`eqcalc.nn.so3`.
"""
