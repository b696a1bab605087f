"""From the paths of a recipe to the files they mean: local, or on any filesystem that pyarrow knows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from clm_ray.errors import DataError

ENDINGS = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv", ".txt"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
}
_PACKED = (".gz", ".bz2", ".zst", ".lz4", ".br")
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Place:
    """One file. `filesystem` is a pyarrow filesystem (it can be pickled), `path` the path within it.

    name: what reports and quarantine show: the path below the folder that all files of its table have in common.
    """

    filesystem: fs.FileSystem
    path: str
    name: str

    def partitions(self) -> dict[str, str | None]:
        """Columns that stand in the path as Hive and Spark write them: folders `name=value`, the value as in a URL."""
        folders = (part.partition("=") for part in PurePosixPath(self.path).parts[:-1])
        found = {unquote(name): unquote(value) for name, equals, value in folders if name and equals}
        return {name: None if value == _NULL_PARTITION else value for name, value in found.items()}

    def identity(self) -> str:
        """Path, size and time of change: another text where the file is another one, or was written anew."""
        info = self.filesystem.get_file_info(self.path)
        return f"{self.filesystem.type_name}:{self.path}|{info.size}|{info.mtime_ns}"

    def open_file(self) -> pa.NativeFile:
        """For random access (Parquet)."""
        return self.filesystem.open_input_file(self.path)

    def open_stream(self) -> pa.NativeFile:
        """Front to back, decompressed as the ending says. Raises ArrowInvalid for a compressed file of no bytes, which was cut off."""
        packed = PurePosixPath(self.path).suffix in _PACKED
        if packed and self.filesystem.get_file_info(self.path).size == 0:
            raise pa.ArrowInvalid("a compressed file has some bytes, this one none")
        return self.filesystem.open_input_stream(self.path, compression="detect")


def find_files(paths: Iterable[str], *, format: str, field: str) -> list[Place]:
    """Every file that `paths` (files, folders, globs, URIs) name, each once, sorted by path.

    Of a folder, the files below it that end as `format` files do, or all where none does; hidden files ("_", ".") are left out. A local file
    is one, whatever links and spellings name it.
    Raises DataError naming the path that holds nothing or cannot be reached.
    """
    found: dict[str, fs.FileSystem] = {}
    for path in paths:
        try:
            filesystem, files = _expand(path, format=format)
        except (OSError, pa.ArrowInvalid, ValueError) as error:
            raise DataError(
                f"cannot be reached: {error}",
                field=field,
                value=path,
                fix="check the path, and the credentials of a URI",
            ) from error
        if not files:
            raise DataError(
                "no such file, or no file in it",
                field=field,
                value=path,
                fix=f"check the path and the format; relative paths start at the working directory, here {Path.cwd()}",
            )
        found.update(dict.fromkeys(files, filesystem))
    found = _without_links(found)
    depth = _common_depth(found)
    return [Place(found[path], path, str(PurePosixPath(*PurePosixPath(path).parts[depth:]))) for path in sorted(found)]


def _without_links(found: dict[str, fs.FileSystem]) -> dict[str, fs.FileSystem]:
    """Each file under one path: its own where it is among them, else the first."""
    kept: dict[str, str] = {}
    for path in sorted(found):
        local = isinstance(found[path], fs.LocalFileSystem)
        own = os.path.realpath(path) if local else path
        if own not in kept or path == own:
            kept[own] = path
    return {path: found[path] for path in kept.values()}


def _common_depth(paths: Iterable[str]) -> int:
    """How many folders, from the root on, all files have in common."""
    levels = zip(*(PurePosixPath(path).parts[:-1] for path in paths), strict=False)
    return len(list(takewhile(lambda level: len(set(level)) == 1, levels)))


def _expand(path: str, *, format: str) -> tuple[fs.FileSystem, list[str]]:
    filesystem, inner = resolve_path(path)
    info = filesystem.get_file_info(inner)
    if info.type == fs.FileType.File:
        return filesystem, [inner]
    if info.type == fs.FileType.NotFound and (wild := _WILD.search(inner)):
        pattern = _glob_pattern(inner)
        base = inner[: wild.start()].rpartition("/")[0] or "/"
        return filesystem, [p for p in _below(filesystem, base) if pattern.fullmatch(p)]
    files = _below(filesystem, inner)
    fitting = [p for p in files if _bare(p).endswith(ENDINGS[format])]
    return filesystem, fitting or files


def resolve_path(path: str) -> tuple[fs.FileSystem, str]:
    """Filesystem and path within it. In a URI "?" starts the options (s3://bucket/log?region=eu-west-1), as pyarrow has it."""
    if "://" not in path:
        return fs.LocalFileSystem(), Path(path).expanduser().absolute().as_posix()
    location, mark, options = path.partition("?")
    wild = re.search(r"[*\[]", location)
    head = location[: wild.start()].rpartition("/")[0] if wild else location
    filesystem, inner = fs.FileSystem.from_uri(head + mark + options)
    return filesystem, inner + location[len(head) :]


def _below(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Every visible file below `folder`."""
    infos = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    depth = len(PurePosixPath(folder).parts)
    paths = (info.path for info in infos if info.type == fs.FileType.File)
    return sorted(p for p in paths if not any(part[0] in "_." for part in PurePosixPath(p).parts[depth:]))


def _bare(path: str) -> str:
    """Lower case, without the ending of a compression."""
    path = path.lower()
    return path.rpartition(".")[0] if path.endswith(_PACKED) else path


def _glob_pattern(glob: str) -> re.Pattern[str]:
    """`*` and `?` stay within one folder, `**` crosses folders, `[...]` is a set of characters."""
    parts = re.split(r"(\*\*/?|\*|\?|\[[^\]]+\])", glob)
    meaning = {"*": "[^/]*", "?": "[^/]", "**": ".*", "**/": "(?:.*/)?"}
    text = "".join(
        meaning.get(part, part.replace("[!", "[^") if part.startswith("[") and part.endswith("]") else re.escape(part))
        for part in parts
    )
    return re.compile(text)
