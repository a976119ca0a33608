"""Commands that say what a script prints and writes."""

from __future__ import annotations

from pathlib import Path

from eqcalc.errors import ConfigError
from eqcalc.simulate.lammps_style.output import Dump, Output
from eqcalc.simulate.lammps_style.thermo_columns import ThermoTable

__all__ = ["OutputCommands"]


class OutputCommands:
    """The commands of a script that say what is written."""

    def __init__(self, output: Output):
        self._output = output

    def thermo(self, every: int) -> None:
        """``thermo N``: print every N steps, and at the first and the last; 0: only there.

        Raises
        ------
        ConfigError : not a whole number of 0 or more.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 0:
            raise ConfigError(f"thermo every N steps: N is a whole number >= 0, not {every!r}.")
        self._output.every = every

    def thermo_style(self, style: str, *keywords: str) -> None:
        """``thermo_style custom KEYWORD ...``: the columns of the output.

        By default step, temp, pe, ke, etotal, press and vol, without press where the box is not
        periodic or the calculator has no stress.

        Raises
        ------
        ConfigError : another style than "custom", or an unknown keyword.
        """
        if style != "custom":
            raise ConfigError(
                f"thermo_style '{style}' is not supported; name the columns: "
                "thermo_style('custom', 'step', 'temp', 'pe', ...)."
            )
        self._output.table = ThermoTable(keywords)

    def thermo_modify(self, *, format_float: str) -> None:
        """``thermo_modify format float FORMAT``, such as "%.4f"; eight digits by default.

        Raises
        ------
        ConfigError : not the format of one number.
        """
        try:
            str(format_float % 1.0)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"'{format_float}' is not the format of one number, such as %.4f ({error})."
            ) from error
        self._output.format_float = format_float

    def log(self, file: str | Path) -> None:
        """``log FILE``: write the output to a file too, which is replaced; "none" closes it.

        Raises
        ------
        OutputError : the file cannot be created.
        """
        self._output.log.close()
        if file != "none":
            self._output.log.open(Path(file))

    def dump(self, style: str, every: int, file: str | Path) -> None:
        """``dump ID all STYLE N FILE``: frames at steps that N divides.

        Each has positions (not wrapped), velocities, energy, forces and, where defined, stress, in
        ASE's units whatever those of the script. An existing file is replaced.

        Parameters
        ----------
        style : "extxyz" (ASE's, which OVITO reads) or "traj" (ASE's own format)

        Raises
        ------
        ConfigError : another style, a name that says another format, ``every`` below 1, or a file
            that another dump writes.
        OutputError : the file cannot be created.
        """
        path, dumps = Path(file), self._output.dumps
        if path in dumps:
            raise ConfigError(f"a dump writes '{path}' already; end it with undump('{path}').")
        dumps[path] = Dump(style, every, path)

    def undump(self, file: str | Path) -> None:
        """``undump ID``: end a dump, which is named by its file.

        Raises
        ------
        ConfigError : no dump writes it.
        """
        dumps = self._output.dumps
        if Path(file) not in dumps:
            names = ", ".join(map(str, dumps))
            raise ConfigError(f"no dump writes '{file}'; there are: {names or 'none'}.")
        dumps.pop(Path(file)).close()
