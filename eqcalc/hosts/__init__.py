"""Programs that bring their own dynamics and run a model: one file or folder for each.

What belongs here: the boundary to another program: its units, its cell, its order of atoms, and
the refusal of what it asks and a model cannot say. Energies and forces are made elsewhere. A host's
package is an extra, imported where its file is used and nowhere else.
"""
