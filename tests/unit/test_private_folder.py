"""Code is run from folders that nobody else can write to, and from nowhere else."""

from __future__ import annotations

import getpass
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eqcalc.engines import Target, load_model, packages
from eqcalc.engines.packages import make_package
from eqcalc.errors import CacheError, EngineError, OutputError
from eqcalc.model_file import open_model_file
from eqcalc.native import build, private_folder
from eqcalc.native.compiler_folder import private_compiler_folder
from eqcalc.native.package_cache import PackageCache, cache_folder
from eqcalc.native.private_folder import make_private, require_trusted, require_trusted_file

KEY = {"model": "abc", "torch": "2"}
TARGET = Target(torch.device("cpu"), torch.float64)
NOBODY = 65534

grp, pwd = (pytest.importorskip(name) for name in ("grp", "pwd"))  # not on Windows

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX's")
as_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() != 0, reason="only root can give files away"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


def made_by_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a path belong to nobody: really, or as far as os.lstat can tell."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, -1, follow_symlinks=False)
        return
    real = os.lstat

    def lstat(name: object) -> os.stat_result:
        found = real(name)
        if os.fspath(name) != os.fspath(path):
            return found
        fields = list(found)
        fields[stat.ST_UID] = NOBODY
        return os.stat_result(fields)

    monkeypatch.setattr(os, "lstat", lstat)


# --- folders -----------------------------------------------------------------------------


def test_a_new_folder_and_those_above_it_are_this_users_alone(tmp_path):
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    for name in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_a_folder_of_this_user_is_trusted_also_through_a_link_of_theirs(tmp_path):
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "relative").symlink_to("../" + tmp_path.name + "/real")
    for name in ("real", "absolute", "relative"):
        require_trusted(tmp_path / name)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777, 0o770])
def test_a_folder_that_others_can_write_is_refused(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(private_folder, "_is_of_this_user_alone", lambda group_id: False)
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(CacheError, match=rf"can be written by others \(mode {mode:04o}\); chmod"):
        require_trusted(folder)
    with pytest.raises(CacheError, match="can be written by others"):
        make_private(folder)


def test_a_folder_below_one_that_others_can_write_is_refused_without_the_sticky_bit(tmp_path):
    (tmp_path / "shared" / "mine").mkdir(parents=True)
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(CacheError, match=r"shared' can be written by others .*set EQCALC_CACHE"):
        require_trusted(tmp_path / "shared" / "mine")
    with pytest.raises(CacheError, match="shared' can be written by others"):
        make_private(tmp_path / "shared" / "new" / "deeper")
    assert not (tmp_path / "shared" / "new").exists()
    (tmp_path / "shared").chmod(0o1777)
    require_trusted(tmp_path / "shared" / "mine")


@pytest.mark.parametrize("whose", ["folder", "above", "link"])
def test_what_belongs_to_another_user_is_refused(whose, tmp_path, monkeypatch):
    (tmp_path / "above" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "above" / "folder")
    owned = {"above": tmp_path / "above", "folder": tmp_path / "above" / "folder"}
    made_by_another_user(owned.get(whose, tmp_path / "link"), monkeypatch)
    with pytest.raises(CacheError, match=r"belongs to the user 'nobody', neither to you nor to r"):
        require_trusted(tmp_path / "link")


@pytest.mark.parametrize(
    ("group", "members", "is_private"),
    [("anna", [], True), ("anna", ["anna"], True), ("anna", ["bert"], False), ("all", [], False)],
)
def test_a_group_of_this_user_alone_may_write(group, members, is_private, tmp_path, monkeypatch):
    """What Debian and others do: every user has a group, and files are made for both."""
    monkeypatch.setattr(os, "geteuid", lambda: os.lstat(tmp_path).st_uid or 1000)
    own = SimpleNamespace(pw_name="anna", pw_gid=os.lstat(tmp_path).st_gid)
    monkeypatch.setattr(pwd, "getpwuid", lambda user_id: own)
    found = SimpleNamespace(gr_name=group, gr_mem=members)
    monkeypatch.setattr(grp, "getgrgid", lambda group_id: found)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o775)
    if is_private:
        require_trusted(tmp_path / "cache")
    else:
        with pytest.raises(CacheError, match=r"can be written by others \(mode 0775\)"):
            require_trusted(tmp_path / "cache")


@pytest.mark.parametrize(
    ("mapped", "is_trusted"), [("0 1000 1\n", True), ("0 0 4294967295\n", False)]
)
def test_what_stands_for_root_in_a_container_may_own_folders_above(
    mapped, is_trusted, tmp_path, monkeypatch
):
    (tmp_path / "uid_map").write_text(mapped)
    monkeypatch.setattr(private_folder, "_UID_MAP", tmp_path / "uid_map")
    (tmp_path / "above" / "mine").mkdir(parents=True)
    made_by_another_user(tmp_path / "above", monkeypatch)
    if is_trusted:
        require_trusted(tmp_path / "above" / "mine")
    else:
        with pytest.raises(CacheError, match="above' belongs to the user 'nobody'"):
            require_trusted(tmp_path / "above" / "mine")
    with pytest.raises(CacheError, match="above' belongs to the user 'nobody'"):
        require_trusted(tmp_path / "above")  # what is the user's own, root does not own


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(CacheError, match=r"cannot look at .*; set EQCALC_CACHE"):
        require_trusted(tmp_path / "a")


def test_a_folder_mounted_noexec_is_refused(tmp_path, monkeypatch):
    real = os.statvfs

    def noexec(path: object) -> os.statvfs_result:
        fields = list(real(path))
        fields[8] |= os.ST_NOEXEC  # f_flag
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", noexec)
    with pytest.raises(CacheError, match="its file system is mounted noexec; set EQCALC_CACHE"):
        make_private(tmp_path / "new")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("mode", r"can be written by others \(mode 0664\); .* Remove it"),
        ("link", "is no regular file"),
        ("owner", "belongs to the user 'nobody'"),
    ],
)
def test_a_file_that_others_wrote_or_can_write_is_refused(fault, message, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"code")
    require_trusted_file(path)
    if fault == "mode":
        path.chmod(0o664)
    elif fault == "link":
        path.rename(tmp_path / "real")
        path.symlink_to("real")
    else:
        made_by_another_user(path, monkeypatch)
    with pytest.raises(CacheError, match=message):
        require_trusted_file(path)


# --- packages ----------------------------------------------------------------------------


def put(path: Path) -> None:
    path.write_bytes(b"code")


def test_packages_are_kept_for_this_user_alone_whatever_the_umask():
    before = os.umask(0)
    try:
        path = PackageCache().make(KEY, put)
    finally:
        os.umask(before)
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    for file in (path, path.with_suffix(".json")):
        assert file.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) == 0


@pytest.mark.parametrize("fault", ["mode", "owner", "file"])
def test_a_package_that_others_could_have_put_there_is_not_found(fault, monkeypatch):
    cache = PackageCache()
    path = cache.make(KEY, put)
    assert cache.find(KEY) == path
    if fault == "mode":
        cache.folder.chmod(0o777)
    elif fault == "owner":
        made_by_another_user(cache.folder, monkeypatch)
    else:
        path.chmod(0o666)
    with pytest.raises(CacheError, match=r"written by others|belongs to the user 'nobody'"):
        cache.find(KEY)
    if fault != "file":
        with pytest.raises(CacheError, match=r"written by others|belongs to the user 'nobody'"):
            cache.make(KEY, put)
        return
    cache.make(KEY, put)  # in a folder of one's own it is made again
    assert cache.find(KEY) == path


def test_a_foreign_cache_ends_in_torchscript_with_one_line(models):
    file = open_model_file(models["double"])
    PackageCache().make(packages._key([file], TARGET), put)
    cache_folder().chmod(0o777)
    model = load_model(models["double"])
    assert model.engine.name == "torchscript"
    assert "can be written by others (mode 0777" in model.not_used["inductor"]
    assert "\n" not in model.not_used["inductor"]
    message = r"'inductor' cannot run 'double': .* can be written by others .*; or take engine='a"
    with pytest.raises(EngineError, match=message) as caught:
        load_model(models["double"], engine="inductor")
    assert isinstance(caught.value, OutputError)


@pytest.mark.parametrize("home", ["none", "absent", "file"])
def test_without_a_home_to_write_to_torchscript_runs(home, models, monkeypatch, tmp_path):
    monkeypatch.delenv("EQCALC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home == "none":
        real = Path.expanduser

        def nowhere(path: Path) -> Path:
            if path.parts[0] == "~":
                raise RuntimeError("Could not determine home directory.")
            return real(path)

        monkeypatch.setattr(Path, "expanduser", nowhere)
    else:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("HOME", str(tmp_path / home / "of a user"))
    if home != "absent":  # root may make it
        with pytest.raises(EngineError, match=r"EQCALC_CACHE"):
            load_model(models["double"], engine="inductor")
    model = load_model(models["double"])
    assert model.engine.name == "torchscript"
    assert "\n" not in model.not_used["inductor"]


def test_where_packages_cannot_be_unpacked_and_run_torchscript_runs(models, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    real = os.statvfs

    def noexec(path: object) -> os.statvfs_result:
        fields = list(real(path))
        fields[8] |= os.ST_NOEXEC  # f_flag
        return os.statvfs_result(fields)

    PackageCache().make(packages._key([open_model_file(models["double"])], TARGET), put)
    monkeypatch.setattr(os, "statvfs", noexec)
    model = load_model(models["double"])
    assert model.engine.name == "torchscript"
    assert re.search(r"mounted noexec; set TMPDIR", model.not_used["inductor"])
    assert not list((tmp_path / "temporary").iterdir())


def test_a_library_that_cannot_be_loaded_is_an_engine_error(monkeypatch):
    cache = PackageCache(suffix=".so")
    cache.make(build._key(), put)
    monkeypatch.setattr(build, "_loaded", [])
    with pytest.raises(EngineError, match=r"torch cannot load eqcalc's C\+\+ library .*EQCALC_CA"):
        build.load_library()


def test_a_package_without_the_library_that_it_calls_is_not_run(models, monkeypatch):
    file = open_model_file(models["double"])
    target = TARGET._replace(dtype=torch.float32)
    PackageCache().make(packages._key([file], target), put)
    monkeypatch.setattr(build, "_loaded", [])
    model = load_model(models["double"], dtype="float32")
    assert model.engine.name == "torchscript"
    assert "C++ library, which the package calls, is not there" in model.not_used["inductor"]


# --- torch's compiler --------------------------------------------------------------------


def test_the_compiler_has_a_private_folder_and_leaves_the_environment_alone():
    before, temporary = dict(os.environ), tempfile.gettempdir()
    with private_compiler_folder() as folder:
        assert folder == cache_folder() / "compiler"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
        assert Path(os.environ["TRITON_CACHE_DIR"]).is_relative_to(folder)
        assert tempfile.gettempdir() == str(folder)
    assert dict(os.environ) == before
    assert tempfile.gettempdir() == temporary


def test_torchs_own_default_is_not_taken_for_the_users_wish(monkeypatch):
    default = Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(default))  # as torch does when imported
    with private_compiler_folder() as folder:
        assert folder == cache_folder() / "compiler"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(default)


def test_a_folder_that_the_user_named_is_used_and_looked_at_too(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "named"))
    with private_compiler_folder() as folder:
        assert folder == tmp_path / "named"
    folder.chmod(0o777)
    with (
        pytest.raises(CacheError, match="named' can be written by others"),
        private_compiler_folder(),
    ):
        pass


def test_a_link_in_place_of_the_compilers_folder_is_refused(tmp_path):
    make_private(cache_folder())
    (tmp_path / "elsewhere").mkdir()
    (cache_folder() / "compiler").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(CacheError, match="compiler' is a link; remove it"),
        private_compiler_folder(),
    ):
        pass


def test_a_file_in_place_of_the_compilers_folder_is_an_error_of_eqcalc():
    make_private(cache_folder())
    (cache_folder() / "compiler").write_text("")
    with (
        pytest.raises(CacheError, match=r"needs a folder of its own, .* cannot be made: no fol"),
        private_compiler_folder(),
    ):
        pass


def test_headers_that_torch_keeps_elsewhere_are_not_used(monkeypatch, tmp_path):
    from torch._inductor import codecache, config

    if not hasattr(config, "cpp_cache_precompile_headers"):
        pytest.skip("torch 2.6 keeps no headers")
    monkeypatch.setattr(codecache, "_HEADER_DIR", str(tmp_path / "foreign"), raising=False)
    with private_compiler_folder():
        assert config.cpp_cache_precompile_headers is False
        assert config.aot_inductor.precompile_headers is False
    with private_compiler_folder() as folder:
        monkeypatch.setattr(codecache, "_HEADER_DIR", str(folder / "headers"))
    before = config.cpp_cache_precompile_headers
    with private_compiler_folder():
        assert config.cpp_cache_precompile_headers is before


@pytest.mark.usefixtures("library_built")
def test_a_model_is_compiled_in_the_private_folder(models, monkeypatch):
    seen = []

    def compile_here(file: object, package: Path, *target: object) -> None:
        seen.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        package.write_bytes(b"code")

    monkeypatch.setattr("eqcalc.compiling.compile_model", compile_here)
    make_package([open_model_file(models["double"])], TARGET)
    assert seen == [str(cache_folder() / "compiler")]


TRAINS = """
import os, sys, warnings
import torch
from eqcalc.native.compiler_folder import private_compiler_folder

warnings.simplefilter("ignore")
with private_compiler_folder():
    double = torch.compile(lambda x: 2 * x.sin(), dynamic=True)
    assert torch.allclose(double(torch.ones(3)), 2 * torch.ones(3).sin())
"""


def in_a_fresh_process(code: str, temporary: Path, *words: object) -> None:
    environment = os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def everything_below(folder: Path) -> list[tuple[str, int, int]]:
    found = []
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        found.append((str(path), info.st_atime_ns * path.is_file(), info.st_mtime_ns))
    return found


@pytest.mark.slow
def test_nothing_in_the_foreseeable_folder_is_read_or_written(models, tmp_path, monkeypatch):
    """What stands there in the place of torch's own folder cannot even be listed as a folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    trap = temporary / f"torchinductor_{getpass.getuser()}"
    trap.write_text("a file, at which whoever wants a folder fails")
    before = everything_below(temporary)
    in_a_fresh_process(TRAINS, temporary)
    assert everything_below(temporary) == before
    assert any((cache_folder() / "compiler").rglob("*.so"))


@pytest.mark.slow
def test_a_planted_library_is_loaded_without_the_private_folder_and_not_with_it(tmp_path):
    """The same file in both places: the folder that eqcalc names decides which is loaded."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    unguarded = TRAINS.replace("with private_compiler_folder():", "if True:")
    in_a_fresh_process(unguarded, temporary)  # fills torch's own folder
    own = temporary / f"torchinductor_{getpass.getuser()}"
    planted = list(own.rglob("*.so"))
    assert planted
    for path in planted:
        path.write_bytes(b"no library")
    with pytest.raises(AssertionError):  # torch alone takes what is there
        in_a_fresh_process(unguarded, temporary)
    in_a_fresh_process(TRAINS, temporary)
    for path in planted:
        assert path.read_bytes() == b"no library"
