"""Writes films frame by frame, so that an episode of any length takes the memory of one frame."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ddpg_jax.errors import ConfigError

ENDINGS = (".gif", ".webp", ".png", ".mp4")
"""Endings of films."""
Add = Callable[[Any], None]
"""`(picture) -> None`: adds a frame, a picture of Pillow; all have the same size."""


def check_ending(path: Path) -> None:
    """Checks that a film of this name can be written.

    Raises:
        ConfigError: its ending is another, or its folder or the package that it needs does not exist.
    """
    if path.suffix not in ENDINGS:
        raise ConfigError(f"video={path} is not allowed; the name must end in {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise ConfigError(f"video={path} is not allowed; there is no folder {path.parent}")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            f"video={path} needs a package that is not installed; install the extra video, or pip install imageio-ffmpeg, "
            "or name a .gif"
        )


SHORTEST, LONGEST = 2, 60_000
"""Limits of how long a GIF shows a frame, in hundredths of a second. Many programs show a shorter frame for ten of them."""


@contextlib.contextmanager
def new_film(path: Path, milliseconds: int) -> Iterator[Add]:
    """Opens a film whose frames are shown for so long, and puts it in its place once all of it is written."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    write = {".gif": _gif, ".webp": _webp, ".png": _png, ".mp4": _mp4}[path.suffix]
    try:
        with write(temporary, milliseconds) as add:
            yield add
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _gif(path: Path, milliseconds: int) -> Iterator[Add]:
    """Writes a GIF. Equal neighbours become one frame, and every frame has colours of its own.

    Durations are rounded so that the whole is as long as it should be. A frame that would be shorter than `SHORTEST` is left
    out.
    """
    from PIL import GifImagePlugin, Image

    waiting: Any = None  # a frame that is not written yet
    end, written = 0.0, 0  # when it ends, in milliseconds, and what is written, in hundredths of a second, as in the file

    def shown() -> int:
        return round(end / 10) - written

    def flush() -> None:
        nonlocal written
        duration = max(shown(), SHORTEST)
        for part in GifImagePlugin.getdata(waiting, duration=10 * duration, include_color_table=True):
            file.write(part)
        written += duration

    def add(picture: Any) -> None:
        nonlocal waiting, end
        frame = picture.convert("RGB").quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        if waiting is None:
            size = struct.pack("<HH", *frame.size)
            file.write(b"GIF89a" + size + b"\x00\x00\x00\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
            waiting = frame
        elif shown() >= SHORTEST and not (_equal(frame, waiting) and shown() < LONGEST):
            flush()
            waiting = frame
        end += milliseconds

    with open(path, "wb") as file:
        yield add
        flush()
        file.write(b";")


def _equal(one: Any, other: Any) -> bool:
    return one.tobytes() == other.tobytes() and one.getpalette() == other.getpalette()


@contextlib.contextmanager
def _png(path: Path, milliseconds: int) -> Iterator[Add]:
    """Writes an animated PNG, whose frames are the data of PNG files behind headers of their own."""
    with open(path, "wb") as file:
        count = sequence = place = 0

        def add(picture: Any) -> None:
            nonlocal count, sequence, place
            chunks = _chunks_of(picture.convert("RGB"))
            if not count:
                file.write(b"\x89PNG\r\n\x1a\n")
                _write_chunk(file, b"IHDR", next(data for kind, data in chunks if kind == b"IHDR"))
                place = file.tell()
                _write_chunk(file, b"acTL", struct.pack(">II", 0, 0))  # written again once the frames are counted
            frame = struct.pack(">IIIIIHHBB", sequence, *picture.size, 0, 0, milliseconds, 1000, 0, 0)
            _write_chunk(file, b"fcTL", frame)
            sequence += 1
            for data in (data for kind, data in chunks if kind == b"IDAT"):
                if count:
                    _write_chunk(file, b"fdAT", struct.pack(">I", sequence) + data)
                    sequence += 1
                else:
                    _write_chunk(file, b"IDAT", data)
            count += 1

        yield add
        _write_chunk(file, b"IEND", b"")
        file.seek(place)
        _write_chunk(file, b"acTL", struct.pack(">II", count, 0))


def _chunks_of(picture: Any) -> list[tuple[bytes, bytes]]:
    """Returns the chunks of a picture's PNG file, each as its kind and its data."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    data, chunks, at = file.getvalue(), [], 8
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def _write_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


@contextlib.contextmanager
def _webp(path: Path, milliseconds: int) -> Iterator[Add]:
    """Writes an animated WebP, whose frames are the contents of WebP files."""
    with open(path, "wb") as file:
        begun = False

        def add(picture: Any) -> None:
            nonlocal begun
            size = b"".join((side - 1).to_bytes(3, "little") for side in picture.size)
            if not begun:
                begun = True
                file.write(b"RIFF\0\0\0\0WEBP")
                _write_riff(file, b"VP8X", b"\x02\0\0\0" + size)
                _write_riff(file, b"ANIM", b"\0" * 6)
            data = io.BytesIO()
            picture.convert("RGB").save(data, "WEBP", quality=80, method=0)
            about = b"\0" * 6 + size + milliseconds.to_bytes(3, "little") + b"\0"
            _write_riff(file, b"ANMF", about + data.getvalue()[12:])

        yield add
        end = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", end - 8))


def _write_riff(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))


@contextlib.contextmanager
def _mp4(path: Path, milliseconds: int) -> Iterator[Add]:
    """Writes an MP4 with the program of imageio-ffmpeg. Sides of odd length lose a row or column, which the codec needs."""
    import imageio_ffmpeg  # pyright: ignore[reportMissingImports]

    writer: Any = None

    def add(picture: Any) -> None:
        nonlocal writer
        width, height = (side - side % 2 for side in picture.size)
        if writer is None:
            writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=1000 / milliseconds, macro_block_size=2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of a fork beside JAX's threads; it starts another program
                writer.send(None)
        writer.send(picture.convert("RGB").crop((0, 0, width, height)).tobytes())

    try:
        yield add
    finally:
        if writer is not None:
            writer.close()
