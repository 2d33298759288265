"""Removes from shared libraries what the loader does not read: the symbol table that only debuggers use.

TensorFlow's takes 0.2 GB. `strip` of binutils does the same, but a slim base image lacks it. Stack traces keep their
names, which come from the loader's own table. The format is ELF-64, as in the manual page elf(5).

Usage: strip.py LIBRARY...
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
HEADER = struct.Struct("<40xQ10x3H")  # where the section headers are; the size of one, their number, that of the names
SECTION = struct.Struct("<IIQQQQIIQQ")
PROGRAM_HEADERS = struct.Struct("<32xQ14x2H")  # where they are; the size of one, their number
SEGMENT = struct.Struct("<8xQ16xQ16x")  # where it is in the file, and its size there
TYPE, FLAGS, OFFSET, SIZE = 1, 2, 4, 5
NO_BYTES = 8  # the type of a section without bytes in the file
LOADED = 2  # the flag of a section that the loader maps


def strip(path: Path) -> None:
    """Remove from a library, in place, the sections that the loader does not map; leave other files as they are."""
    with path.open("r+b") as file:
        start = file.read(64)
        if not start.startswith(ELF64_LITTLE_ENDIAN):
            return
        table, size, count, names = HEADER.unpack(start)
        if size != SECTION.size or not count:
            return
        file.seek(table)
        sections = [list(each) for each in SECTION.iter_unpack(file.read(size * count))]
        where, size, count = PROGRAM_HEADERS.unpack(start[: PROGRAM_HEADERS.size])
        file.seek(where)
        segments = SEGMENT.iter_unpack(file.read(size * count))
        end = max(offset + length for offset, length in segments)
        file.seek(sections[names][OFFSET])
        text = file.read(sections[names][SIZE])
        for index, section in enumerate(sections):
            # Sections are known by their number, so a removed one leaves an empty header.
            if index == names:
                section[OFFSET] = end
            elif not section[FLAGS] & LOADED:
                section[:] = [0] * len(section)
        file.truncate(end)
        file.seek(end)
        file.write(text)
        table = -(-file.tell() // 8) * 8
        file.seek(table)
        file.write(b"".join(SECTION.pack(*section) for section in sections))
        file.seek(40)
        file.write(struct.pack("<Q", table))


if __name__ == "__main__":
    for library in sys.argv[1:]:
        strip(Path(library))
