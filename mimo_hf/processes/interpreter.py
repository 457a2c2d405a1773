"""A Python for programs that need only its standard library: where it is, and which files it consists of."""

import json
import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Run by that Python itself. Which shared libraries its modules need, only the loader knows: so all of them are loaded.
LOOK = """
import ctypes, glob, json, os, sys
library = os.path.realpath(os.path.dirname(os.__file__))
for path in [*glob.glob(os.path.join(library, "lib-dynload", "*.so")), "libgcc_s.so.1"]:
    if "_tkinter" not in path:
        try: ctypes.CDLL(path)
        except OSError: pass
class Loaded(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]
found = []
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Loaded), ctypes.c_size_t, ctypes.c_void_p)
def note(loaded, size, data):
    found.append(os.fsdecode(loaded.contents.name or b""))
    return 0
ctypes.CDLL(None).dl_iterate_phdr(note, None)
print(json.dumps([os.path.realpath(sys.executable), library, found]))
"""
# Time zones, and the locale that Python chooses where none is set.
DATA = ("/usr/share/zoneinfo", "/usr/lib/locale/C.utf8")
FOREIGN = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Interpreter:
    """
    Args:
        executable: without symbolic links.
        library: folder of the standard library, without symbolic links.
        shared: shared libraries that the two need, by the names under which the loader looks for them.
    """

    executable: str
    library: str
    shared: tuple[str, ...] = ()

    @classmethod
    def at(cls, path: str) -> "Interpreter":
        """OSError if there is none that runs in an empty environment, as programs do."""
        try:
            look = [path, "-I", "-S", "-c", LOOK]
            said = subprocess.run(look, capture_output=True, text=True, check=True, env={}).stdout  # noqa: S603  the caller's Python
            executable, library, names = json.loads(said)
        except subprocess.CalledProcessError as error:
            raise OSError(f"`python={str(path)!r}` is no Python that runs: {error.stderr.strip()[-300:]}") from error
        except (OSError, ValueError) as error:
            raise OSError(f"`python={str(path)!r}` is no Python that runs: {error}") from error
        shared = {_plain(name) for name in names if name.startswith("/")}
        return cls(executable, library, tuple(sorted(name for name in shared if not name.startswith(f"{library}/"))))

    def files(self) -> list[str]:
        """All it needs to run, and nothing else, but for what `foreign` names."""
        return [*self.shared, "/etc/ld.so.cache", *DATA, self.library, self.executable]

    def foreign(self) -> list[str]:
        """Folders in the library that hold packages which are not its own."""
        return [path for name in FOREIGN if os.path.isdir(path := os.path.join(self.library, name))]

    def is_open(self) -> bool:
        """Whether every user may run and read it."""
        modes = [(path, os.stat(path).st_mode) for path in (self.executable, self.library)]
        parents = {parent for path, _ in modes for parent in Path(path).parents}
        return all(mode & stat.S_IROTH and mode & stat.S_IXOTH for _, mode in modes) and all(
            os.stat(parent).st_mode & stat.S_IXOTH for parent in parents
        )


def _plain(name: str) -> str:
    """A library beside an executable is looked for by a name with dots in it."""
    return os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name)) if "/.." in name else name
