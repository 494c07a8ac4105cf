"""Files that grow, are renamed, cut and removed while they are read: every line once, whatever becomes of its file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class _Open:
    descriptor: int
    name: str
    read: int = 0
    rest: bytes = b""
    idle: int = 0


_IDLE = 60
_PIECE = 1 << 20


class Tail:
    """Lines of the files in `directory` that match `pattern`. A file is known by its inode: renamed it is the same."""

    def __init__(self, directory: Path, pattern: str) -> None:
        self._directory, self._pattern = directory, pattern
        self._open: dict[tuple[int, int], _Open] = {}

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Name of the file and line, of all lines that were finished since."""
        self._look()
        for identity, file in list(self._open.items()):
            yield from self._new(file)
            gone = os.fstat(file.descriptor).st_nlink == 0
            if gone and file.idle > _IDLE:
                os.close(file.descriptor)
                del self._open[identity]

    def close(self) -> None:
        for file in self._open.values():
            os.close(file.descriptor)
        self._open.clear()

    def _look(self) -> None:
        for path in self._directory.glob(self._pattern):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError:
                continue
            about = os.fstat(descriptor)
            identity = about.st_dev, about.st_ino
            if identity in self._open:
                os.close(descriptor)
            else:
                self._open[identity] = _Open(descriptor, path.name)

    def _new(self, file: _Open) -> Iterator[tuple[str, bytes]]:
        size = os.fstat(file.descriptor).st_size
        if size < file.read:  # half a line was taken back, or all was cut
            file.read, file.rest = file.read - len(file.rest) if size >= file.read - len(file.rest) else 0, b""
        file.idle += 1
        while piece := os.pread(file.descriptor, _PIECE, file.read):
            file.read += len(piece)
            file.idle = 0
            *lines, file.rest = (file.rest + piece).split(b"\n")
            for line in lines:
                yield file.name, line
