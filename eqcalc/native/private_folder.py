"""Folders from which code is run: nobody else may have put it there.

A compiled model is code. Whoever can write into the folder where it lies, or can put another
folder in its place, decides what runs as the user who loads it. A folder in ``/tmp`` whose name
can be foreseen belongs to whoever makes it first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from eqcalc.errors import CacheError

__all__ = ["is_noexec", "make_private", "require_trusted", "require_trusted_file"]

_MOST_LINKS = 40  # as Linux follows them
_UID_MAP, _OVERFLOW = Path("/proc/self/uid_map"), Path("/proc/sys/kernel/overflowuid")
_ALL_USERS = 2**32 - 1
_INSTEAD = "set EQCALC_CACHE to a folder of your own"


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone (mode 0700).

    Raises
    ------
    CacheError : see :func:`require_trusted`; or code cannot be run from there.
    OSError : it cannot be made.
    """
    folder = folder.absolute()
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    require_trusted(missing[-1].parent if missing else folder, is_above=len(missing) > 0)
    for path in reversed(missing):
        try:
            os.mkdir(path, mode=0o700)
        except FileExistsError:  # another process was quicker; what it made is looked at below
            continue
    require_trusted(folder)
    if is_noexec(folder):
        raise CacheError(
            f"nothing can be run from '{folder}': its file system is mounted noexec; {_INSTEAD}."
        )


def is_noexec(folder: Path) -> bool:
    """Return whether a folder's file system is mounted so that no code in it can be run."""
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0))


def require_trusted(folder: Path, *, is_above: bool = False) -> None:
    """Refuse a folder in which somebody else could have put files, or can put them.

    It and all that stands above it, links included, must belong to this user or to root, and
    nobody else may write there; a group of this user alone is nobody else. Above it, a folder
    like ``/tmp`` will do, where nobody can move what belongs to others (the sticky bit), and in a
    container the number by which root appears there.

    Parameters
    ----------
    is_above : it only stands above the folder in question

    Raises
    ------
    CacheError : what is wrong, where, and what to do.
    NotADirectoryError : a file stands in its place, or above it.
    """
    if not hasattr(os, "geteuid"):  # Windows: folders of a user's profile are the user's
        return
    try:
        way = [(path, os.lstat(path)) for path in _way_to(folder.absolute())]
    except OSError as error:
        raise CacheError(
            f"cannot look at '{folder}': {error.strerror or error}; {_INSTEAD}."
        ) from error
    for number, (path, found) in enumerate(way, start=1):
        is_last = number == len(way) and not is_above
        why, remedy = _foreign(found, is_above=not is_last), _INSTEAD
        if why is None and not stat.S_ISLNK(found.st_mode):  # a link has no mode of its own
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "no folder", str(path))
            if _others_can_write(found) and (is_last or not found.st_mode & stat.S_ISVTX):
                why = f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
                remedy = f"chmod go-w '{path}', or {_INSTEAD}"
        if why is not None:
            raise CacheError(
                f"compiled code in '{folder}' is not run, and none is put there: '{path}' {why}; "
                f"{remedy}."
            )


def require_trusted_file(path: Path) -> None:
    """Refuse a file of a trusted folder that somebody else wrote, or can write.

    Raises
    ------
    CacheError : it is no regular file, or belongs to others, or they can write it.
    OSError : there is no such file.
    """
    if not hasattr(os, "geteuid"):
        return
    found = os.lstat(path)
    why = _foreign(found, is_above=False)
    if why is None and not stat.S_ISREG(found.st_mode):
        why = "is no regular file"
    if why is None and _others_can_write(found):
        why = f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    if why is not None:
        raise CacheError(f"'{path}' {why}; it is not run. Remove it and compile again.")


def _others_can_write(found: os.stat_result) -> bool:
    """Whether somebody else may write, by the mode: many systems give a user's files to a group."""
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_of_this_user_alone(found.st_gid)


def _is_of_this_user_alone(group_id: int) -> bool:
    """Whether a group is the private one of this user: of the same name, with nobody else."""
    import grp
    import pwd

    if os.geteuid() == 0:  # its group is that of those who may do what root may
        return False
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(group_id)
    except KeyError:
        return False
    is_own = group_id == user.pw_gid and group.gr_name == user.pw_name
    return is_own and set(group.gr_mem) <= {user.pw_name}


def _stands_for_root(user_id: int) -> bool:
    """Whether root appears as this user: in a container where only some users have a number."""
    try:
        mapped = sum(int(line.split()[2]) for line in _UID_MAP.read_text().splitlines())
        return mapped < _ALL_USERS and user_id == int(_OVERFLOW.read_text())
    except (OSError, ValueError, IndexError):
        return False


def _foreign(found: os.stat_result, *, is_above: bool) -> str | None:
    """Return whose a file or folder is, if neither this user's nor root's."""
    if found.st_uid in (0, os.geteuid()) or (is_above and _stands_for_root(found.st_uid)):
        return None
    import pwd  # not on Windows

    try:
        name = f"'{pwd.getpwuid(found.st_uid).pw_name}'"
    except KeyError:
        name = str(found.st_uid)
    kind = "is a link that belongs" if stat.S_ISLNK(found.st_mode) else "belongs"
    return f"{kind} to the user {name}, neither to you nor to root"


def _way_to(path: Path) -> Iterator[Path]:
    """Yield every folder and every link that the system passes on the way to a path.

    Raises
    ------
    OSError : there is no such path, or its links lead in a circle.
    """
    at, rest = Path(path.anchor), list(path.parts[1:])
    n_links = 0
    yield at
    while rest:
        name = rest.pop(0)
        if name == "..":
            at = at.parent
            continue
        step = at / name
        yield step
        if not step.is_symlink():
            at = step
            continue
        n_links += 1
        if n_links > _MOST_LINKS:
            raise OSError(f"too many links on the way to '{path}'")
        target = Path(os.readlink(step))
        rest = [*(target.parts[1:] if target.is_absolute() else target.parts), *rest]
        if target.is_absolute():
            at = Path(target.anchor)
