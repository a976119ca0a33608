"""``python -m eqcalc``: the command line, where no script ``eqcalc`` is on the path."""

from eqcalc.cli import main

if __name__ == "__main__":
    main()
