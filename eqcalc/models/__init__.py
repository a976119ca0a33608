"""The shipped models.

In a checkout they lie in the folder ``models`` beside this package; a wheel has them here. This
file is what lets setup.cfg find the package.
"""
