"""What a file is, judged by its name and its first bytes, before any decoder sees it."""

from pathlib import Path, PurePath

NUM_HEAD_BYTES = 512

_EXTENSIONS = (
    ".wav .wave .w64 .rf64 .bwf .flac .ogg .oga .opus .spx .mp1 .mp2 .mp3 .aif .aiff .aifc .au .snd .caf "
    ".m4a .m4b .aac .alac .wma .ape .wv .tta .mpc .ac3 .mka"
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
