"""What a program meets on Windows, for a Python on Linux that has this folder in PYTHONPATH.

Modules of cytolith get a `sys` that says win32, an `os` and a `signal` without what Windows lacks, no `fcntl` and no
`resource`, but `msvcrt` and the system's library as `ctypes` shows it. Everybody gets, below the folder in
WINDOWS_ROOT: files that cannot be renamed, replaced or removed while this process, its parent or a child of one of
them has them open or mapped; names that may not hold some letters; texts that are cp1252 with CRLF unless told
otherwise. A folder cannot be opened, and `os.kill` with 0 is Ctrl-C, which ends the test.
"""

# ruff: noqa: A002, N802, PTH100, PTH110, PTH112, PTH113, PTH115, PTH118, PTH119, PTH120, PTH208
import builtins
import ctypes
import fcntl
import io
import os
import resource
import signal
import stat
import struct
import sys
import types
from contextlib import suppress
from pathlib import Path

ROOT = os.path.realpath(os.environ["WINDOWS_ROOT"])
MISSING = {
    "os": {
        "fork", "forkpty", "getuid", "geteuid", "getpgid", "killpg", "mkfifo", "posix_fadvise", "posix_fallocate",
        "pread", "preadv", "pwrite", "pwritev", "readv", "sched_getaffinity", "sched_setaffinity", "setsid", "statvfs",
        "sync", "sysconf", "wait", "writev",
    },
    "signal": {
        "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIG_BLOCK", "SIG_SETMASK", "alarm", "pthread_kill",
        "pthread_sigmask", "setitimer", "sigwait",
    },
}  # fmt: skip
ABSENT = {"fcntl", "grp", "pwd", "resource", "termios"}
FORBIDDEN = set('<>:"|?*') | {chr(number) for number in range(32)}
O_BINARY = 0x8000  # on 64-bit Linux a bit without a meaning


def is_ours(path):
    return isinstance(path, (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(path)).startswith(ROOT + os.sep)


def calls_from_cytolith(depth=2):
    return str(sys._getframe(depth).f_globals.get("__name__", "")).startswith("cytolith")


# --- files that are open -------------------------------------------------------------------------------------------


def relatives():
    """This process, its parent, and the children of both."""
    found = {os.getpid(), os.getppid()}
    for number in list(found):
        with suppress(OSError):
            for task in os.listdir(f"/proc/{number}/task"):
                found |= set(map(int, Path(f"/proc/{number}/task/{task}/children").read_bytes().split()))
    return found


def open_files():
    for number in relatives():
        with suppress(OSError):
            for entry in os.listdir(f"/proc/{number}/fd"):
                with suppress(OSError):
                    yield os.readlink(f"/proc/{number}/fd/{entry}")
        with suppress(OSError), real_open(f"/proc/{number}/maps", "rb") as maps:
            yield from (os.fsdecode(line.split(None, 5)[5].rstrip(b"\n")) for line in maps if b"/" in line)


def refuse_open(path):
    real = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))
    for name in open_files():
        if (name == real or name.startswith(real + os.sep)) and os.path.isfile(name):
            error = PermissionError(
                13, f"The process cannot access the file because it is being used ({name})", str(path)
            )
            error.winerror = 32
            raise error


def guard(name, *, replaces):
    real = getattr(os, name)

    def call(path, *others, **options):
        # what Windows removes when it is closed, the standard library removes here when it is made
        is_temporary = sys._getframe(1).f_globals.get("__name__") == "tempfile"
        ours = is_ours(path) and "dir_fd" not in options and not is_temporary
        if ours and os.path.lexists(path):
            refuse_open(os.fsdecode(path))
        if others and is_ours(others[0]) and os.path.lexists(others[0]):
            if not replaces:
                raise FileExistsError(17, "Cannot create a file when that file already exists", str(others[0]))
            if os.path.isdir(others[0]):
                raise PermissionError(13, "Access is denied", str(others[0]))
            refuse_open(os.fsdecode(others[0]))
        return real(path, *others, **options)

    setattr(os, name, call)


# --- what differs when a file is opened ----------------------------------------------------------------------------

real_open, real_os_open = io.open, os.open


def windows_open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if "b" not in mode and is_ours(file):
        encoding = "cp1252" if encoding in (None, "locale") else encoding
        newline = "\r\n" if newline is None and set(mode) & set("wax+") else newline
    return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)


def windows_os_open(path, flags, mode=0o777, *, dir_fd=None):
    if is_ours(path) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    if calls_from_cytolith():
        assert flags & O_BINARY, f"{path} is opened as text"
    return real_os_open(path, flags & ~O_BINARY, mode, dir_fd=dir_fd)


def check_names(event, arguments):
    if event in ("open", "os.mkdir", "os.rename"):
        for path in arguments[: 2 if event == "os.rename" else 1]:
            if is_ours(path) and not (event == "open" and os.path.exists(path)):
                for part in Path(os.fsdecode(path)).absolute().relative_to(ROOT).parts:
                    if set(part) & FORBIDDEN or part[-1] in ". ":
                        raise OSError(22, "The filename or directory name is incorrect", str(path))


# --- the system's libraries ----------------------------------------------------------------------------------------

real_kill = os.kill


def windows_kill(number, what):
    if what == 0:
        os.write(2, b"os.kill(pid, 0) is Ctrl-C for all that is in this console\n")
        os._exit(99)
    real_kill(number, what)


def locking(descriptor, mode, count):
    """`msvcrt.locking`: a lock of an open file, not of a process, on bytes from its position on."""
    kind = {2: fcntl.F_WRLCK, 0: fcntl.F_UNLCK}[mode]
    flock = struct.pack("hhqqi", kind, os.SEEK_CUR, 0, count, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, flock)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None


def get_osfhandle(descriptor):
    os.fstat(descriptor)
    return Kernel32.HANDLES + descriptor


MSVCRT = types.SimpleNamespace(locking=locking, get_osfhandle=get_osfhandle, LK_UNLCK=0, LK_LOCK=1, LK_NBLCK=2)


class Function:
    """One function of a library: refuses what its declaration does not say, as 64-bit Windows would."""

    def __init__(self, call):
        self.call, self.argtypes, self.restype = call, None, ctypes.c_int

    def __call__(self, *given):
        if any(isinstance(each, int) and each > 2**32 for each in given):
            assert self.argtypes, "a handle is cut to 32 bits"
        result = self.call(*given)
        assert result < 2**32 or self.restype is ctypes.c_void_p, "a handle is cut to 32 bits"
        return result


class Kernel32:
    """What the system says of processes, from /proc, as the manual of Windows has it."""

    HANDLES = 1 << 40  # as large as handles may be
    error = 0

    def __init__(self, name, use_last_error):
        assert (name, use_last_error) == ("kernel32", True)
        calls = (
            "OpenProcess", "CloseHandle", "WaitForSingleObject", "GetProcessTimes", "GetCurrentProcess",
            "K32GetProcessMemoryInfo", "GlobalMemoryStatusEx", "DeviceIoControl",
        )  # fmt: skip
        for each in calls:
            setattr(self, each, Function(getattr(self, f"_{each}")))
        self.open = set()

    def _OpenProcess(self, access, inherit, number):
        assert access & ~0x101000 == 0
        try:
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            type(self).error = 87
            return 0
        if fields[0] in "ZX":
            type(self).error = 87
            return 0
        self.open.add(number)
        return self.HANDLES + number

    def _CloseHandle(self, handle):
        self.open.remove(handle - self.HANDLES)
        return 1

    def _WaitForSingleObject(self, handle, milliseconds):
        assert handle - self.HANDLES in self.open
        assert milliseconds == 0
        return 0x102 if Path(f"/proc/{handle - self.HANDLES}").exists() else 0

    def _GetProcessTimes(self, handle, start, *others):
        assert handle - self.HANDLES in self.open
        ticks = int(Path(f"/proc/{handle - self.HANDLES}/stat").read_text().rpartition(")")[2].split()[19])
        start._obj.low, start._obj.high = ticks & 0xFFFFFFFF, 7
        return 1

    def _GetCurrentProcess(self):
        return 2**64 - 1

    def _K32GetProcessMemoryInfo(self, handle, counters, length):
        assert handle == 2**64 - 1
        assert length == ctypes.sizeof(counters._obj) == 72
        counters._obj.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return 1

    def _GlobalMemoryStatusEx(self, memory):
        assert memory._obj.length == ctypes.sizeof(memory._obj) == 64
        memory._obj.total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return 1

    def _DeviceIoControl(self, handle, what, given, size, room, room_size, moved, overlapped):
        assert (what, given, size, room, room_size, overlapped) == (0x900C4, None, 0, None, 0, None)
        assert isinstance(moved._obj, ctypes.c_uint32), "needed where nothing overlaps"
        return int(stat.S_ISREG(os.fstat(handle - self.HANDLES).st_mode))


class Without(types.ModuleType):
    """A module without some of its names, and with others."""

    def __init__(self, module, missing=(), **others):
        super().__init__(module.__name__)
        self._module, self._missing = module, frozenset(missing)
        self.__dict__.update(others)

    def __getattr__(self, name):
        if name in self._missing:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self._module, name)

    def __setattr__(self, name, value):
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self._module, name, value)


SEEN = {
    "sys": Without(sys, platform="win32"),
    "os": Without(os, MISSING["os"]),
    "signal": Without(signal, MISSING["signal"]),
    "ctypes": Without(ctypes, WinDLL=Kernel32, get_last_error=lambda: Kernel32.error),
    "msvcrt": MSVCRT,
}
real_import = builtins.__import__


def windows_import(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and globals is not None and str(globals.get("__name__", "")).startswith("cytolith"):
        if name in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in SEEN:
            return SEEN[name]
    return real_import(name, globals, locals, fromlist, level)


def become():
    os.O_BINARY = O_BINARY
    os.open, os.kill = windows_os_open, windows_kill
    io.open = builtins.open = windows_open
    for name in ("unlink", "remove", "rmdir"):
        guard(name, replaces=True)
    guard("rename", replaces=False)
    guard("replace", replaces=True)
    builtins.__import__ = windows_import
    sys.addaudithook(check_names)


become()
