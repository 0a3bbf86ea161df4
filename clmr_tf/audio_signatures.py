"""What a file is, judged by its name and its bytes, before any decoder sees it."""

from pathlib import Path, PurePath
from typing import BinaryIO

NUM_HEAD_BYTES = 512

_EXTENSIONS = (
    ".wav .wave .w64 .rf64 .bwf .flac .ogg .oga .opus .spx .mp1 .mp2 .mp3 .aif .aiff .aifc .au .snd .caf "
    ".m4a .m4b .aac .alac .wma .ape .wv .tta .tak .mpc .ac3 .amr .dsf .voc .mka "
    ".webm .mp4 .m4v .mov .3gp .mkv .ogv .avi .flv .wmv .mpg .mpeg"
)
AUDIO_EXTENSIONS = frozenset(_EXTENSIONS.split())

# (offset, bytes): how containers of audio begin. An "ftyp" box alone would also let films in.
_AUDIO_SIGNATURES = (
    (0, b"fLaC"),
    (0, b"OggS"),
    (0, b"ID3"),
    (0, b"\xff\xfb"),
    (0, b"\xff\xf3"),
    (0, b"\xff\xf2"),
    (0, b".snd"),
    (0, b"caff"),
    (8, b"WAVE"),
    (8, b"AIFF"),
    (8, b"AIFC"),
    (4, b"ftypM4A"),
)
_OTHER_SIGNATURES = (
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"BM", "an image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "an archive"),
    (b"Rar!", "an archive"),
    (b"7z\xbc\xaf", "an archive"),
    (b"\x1f\x8b", "an archive"),
    (b"\x7fELF", "a program"),
)
# Everything below the space except tab, line feed, form feed, carriage return and escape.
_CONTROL_BYTES = frozenset(range(32)) - {9, 10, 12, 13, 27}


def is_named_like_audio(name: str) -> bool:
    """Whether the extension is one of audio files, in any case."""
    return PurePath(name).suffix.lower() in AUDIO_EXTENSIONS


def read_head(path: Path) -> bytes:
    """The first `NUM_HEAD_BYTES` bytes of a file, fewer where it has no more; OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(NUM_HEAD_BYTES)


def starts_like_audio(head: bytes) -> bool:
    """Whether the first `NUM_HEAD_BYTES` bytes of a file are those of an audio container."""
    return any(head[at : at + len(signature)] == signature for at, signature in _AUDIO_SIGNATURES)


def describe_other_content(head: bytes) -> str | None:
    """What a file that no decoder takes seems to be: "text", "an image", ...; None if that is unknown.

    Args:
        head: Its first `NUM_HEAD_BYTES` bytes.
    """
    for signature, description in _OTHER_SIGNATURES:
        if head.startswith(signature):
            return description
    # Compressed audio is as good as random and meets one of these 27 bytes within a few dozen.
    if head and _CONTROL_BYTES.isdisjoint(head):
        return "text"
    return None


_OGG_PAGE = b"OggS"
_OGG_HEADER_BYTES = 27
_OGG_FIRST_PAGE = 2
# Junk before the first page is looked through as far as this.
_OGG_SEARCH_BYTES = 1 << 20


def ogg_links(file: BinaryIO, *, starts_with_page: bool) -> list[int]:
    """Where the links of a chained Ogg file begin, in bytes: one for a plain file, none if it is no Ogg file.

    A link begins with the first pages of its streams, so one that follows any other page begins a new link.

    Args:
        file: Any file, of more than 0 bytes.
        starts_with_page: Whether the file must begin with a page, or may have junk before it.
    """
    num_bytes = file.seek(0, 2)
    place = _find_page(file, 0, 0 if starts_with_page else _OGG_SEARCH_BYTES)
    links: list[int] = []
    is_at_beginning = False
    while place is not None:
        file.seek(place)
        header = file.read(_OGG_HEADER_BYTES + 255)
        if len(header) < _OGG_HEADER_BYTES:
            break
        is_first_page = bool(header[5] & _OGG_FIRST_PAGE)
        if is_first_page and not is_at_beginning:
            links.append(place)
        is_at_beginning = is_first_page
        body = _OGG_HEADER_BYTES + header[26]
        place = _find_page(file, place + body + sum(header[_OGG_HEADER_BYTES:body]), num_bytes)
    return links


def _find_page(file: BinaryIO, start: int, search_num_bytes: int) -> int | None:
    """Where the first Ogg page begins at `start` or up to `search_num_bytes` behind it."""
    place, end = start, start + search_num_bytes
    while place <= end:
        file.seek(place)
        # A page's signature may lie across two reads.
        content = file.read(len(_OGG_PAGE) if place == start else _OGG_SEARCH_BYTES)
        found = content.find(_OGG_PAGE)
        if found >= 0:
            return place + found
        if len(content) < len(_OGG_PAGE):
            return None
        place += len(content) - len(_OGG_PAGE) + 1
    return None


_UNKNOWN_SIZE = 0xFFFFFF00
_LARGEST_SIGNED = 0x7FFFF000


def starts_like_wav(file: BinaryIO) -> bool:
    """Whether a file is a WAV file."""
    file.seek(0)
    head = file.read(12)
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE"


def wav_missing_num_bytes(file: BinaryIO) -> int | None:
    """How much audio a WAV file claims beyond its end, 0 for any other file; None if it does not know its own length.

    A program that writes the header before the audio puts about the largest number of 32 bits there, with a sign or
    without, or 0: the audio then ends with the file.
    """
    file.seek(0)
    head = file.read(1 << 16)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0
    place = 12
    while place + 8 <= len(head):
        size = int.from_bytes(head[place + 4 : place + 8], "little")
        if head[place : place + 4] == b"data":
            missing = place + 8 + size - file.seek(0, 2)
            is_unknown = size == 0 or size >= _UNKNOWN_SIZE or (size >= _LARGEST_SIGNED and missing < 0)
            return None if is_unknown or size >= _LARGEST_SIGNED else max(0, missing)
        place += 8 + size + size % 2
    return 0
