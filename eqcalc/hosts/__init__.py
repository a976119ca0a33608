"""Programs that bring their own time step and neighbour list, and call a model.

What belongs here: one file, or one folder, for each host. A host sees model files and engines,
never networks; the package of the host itself is imported where it is used.
"""
