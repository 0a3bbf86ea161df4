"""Audio files to samples: recognising audio, and decoding whole files, damaged ones included, with FFmpeg.

The public functions are at the end: `load_audio` and `open_audio`.
"""

import contextlib
import dataclasses
import itertools
import stat
import statistics
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import soxr

from clmr_tf.audio.downmix import mixed_to_mono
from clmr_tf.errors import ClmrError, UsageError

if TYPE_CHECKING:
    from av import AudioFrame, Packet
    from av.container import InputContainer

NUM_HEAD_BYTES = 512

_EXTENSIONS = (
    ".wav .wave .w64 .rf64 .bwf .flac .ogg .oga .opus .spx .mp1 .mp2 .mp3 .aif .aiff .aifc .au .snd .caf "
    ".m4a .m4b .aac .alac .wma .ape .wv .tta .tak .mpc .ac3 .amr .dsf .voc .mka "
    ".webm .mp4 .m4v .mov .3gp .mkv .ogv .avi .flv .wmv .mpg .mpeg"
)
AUDIO_EXTENSIONS = frozenset(_EXTENSIONS.split())

# (offset, bytes): signatures of audio containers. An "ftyp" box alone would also match videos.
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
    """Whether the extension, in upper or lower case, is that of an audio file."""
    return PurePath(name).suffix.lower() in AUDIO_EXTENSIONS


def read_head(path: Path) -> bytes:
    """The first `NUM_HEAD_BYTES` bytes of a file, or all if it has fewer; OSError if it cannot be read."""
    with path.open("rb") as file:
        return file.read(NUM_HEAD_BYTES)


def starts_like_audio(head: bytes) -> bool:
    """Whether the first `NUM_HEAD_BYTES` bytes of a file are the start of an audio container."""
    return any(head[at : at + len(signature)] == signature for at, signature in _AUDIO_SIGNATURES)


def describe_other_content(head: bytes) -> str | None:
    """What a file that is not audio seems to be: "text", "an image", ...; None if unknown.

    Args:
        head: Its first `NUM_HEAD_BYTES` bytes.
    """
    for signature, description in _OTHER_SIGNATURES:
        if head.startswith(signature):
            return description
    # Compressed audio looks random, so one of these 27 values occurs within a few dozen bytes.
    if head and _CONTROL_BYTES.isdisjoint(head):
        return "text"
    return None


_OGG_PAGE = b"OggS"
_OGG_HEADER_BYTES = 27
_OGG_FIRST_PAGE = 2
# How far to search for the first page in a file that begins with junk.
_OGG_SEARCH_BYTES = 1 << 20


def ogg_links(file: BinaryIO, *, starts_with_page: bool) -> list[int]:
    """Offsets in bytes of the links of a chained Ogg file: one for a plain file, none if it is not an Ogg file.

    A link starts with the first pages of its streams, so a first page after any other page starts a new link.

    Args:
        file: Any file that is not empty.
        starts_with_page: Whether the file must start with a page; otherwise it may have junk before it.
    """
    num_bytes = file.seek(0, 2)
    place = _find_page(file, 0, 0 if starts_with_page else _OGG_SEARCH_BYTES)
    links: list[int] = []
    is_after_first_page = False
    while place is not None:
        file.seek(place)
        header = file.read(_OGG_HEADER_BYTES + 255)
        if len(header) < _OGG_HEADER_BYTES:
            break
        is_first_page = bool(header[5] & _OGG_FIRST_PAGE)
        if is_first_page and not is_after_first_page:
            links.append(place)
        is_after_first_page = is_first_page
        body = _OGG_HEADER_BYTES + header[26]
        place = _find_page(file, place + body + sum(header[_OGG_HEADER_BYTES:body]), num_bytes)
    return links


def _find_page(file: BinaryIO, start: int, search_num_bytes: int) -> int | None:
    """Offset of the first Ogg page from `start` to `start + search_num_bytes`; None if there is none."""
    place, end = start, start + search_num_bytes
    while place <= end:
        file.seek(place)
        # A page's signature may span two reads.
        content = file.read(len(_OGG_PAGE) if place == start else _OGG_SEARCH_BYTES)
        found = content.find(_OGG_PAGE)
        if found >= 0:
            return place + found
        if len(content) < len(_OGG_PAGE):
            return None
        place += len(content) - len(_OGG_PAGE) + 1
    return None


# Signatures of audio files, with the type at byte 8 where there is one.
_BEGINNINGS = (
    (b"fLaC", b""),
    (b"RIFF", b"WAVE"),
    (b"RF64", b"WAVE"),
    (b"FORM", b"AIF"),
    (b"caff", b""),
    (b".snd", b""),
    (b"wvpk", b""),
    (b"\x1a\x45\xdf\xa3", b""),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b""),
)


def late_start(file: BinaryIO) -> int | None:
    """Offset in bytes of audio after a tag or junk in the first MiB of a file; None if there is none."""
    file.seek(0)
    head = file.read(_OGG_SEARCH_BYTES)
    places = []
    for signature, form in _BEGINNINGS:
        place = head.find(signature, 1)
        while place >= 0 and not head[place + 8 :].startswith(form):
            place = head.find(signature, place + 1)
        if place >= 0:
            places.append(place)
    return min(places, default=None)


# A file with more chunks than this, such as endless empty ones, is not followed to its end.
_MOST_CHUNKS = 1000
_UNKNOWN_SIZE = 0xFFFFFF00
_LARGEST_SIGNED = 0x7FFFF000


def starts_like_wav(file: BinaryIO) -> bool:
    """Whether a file starts with a WAV header."""
    file.seek(0)
    head = file.read(12)
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE"


def missing_num_bytes(file: BinaryIO) -> int | None:
    """How many bytes of audio a WAV, W64 or CAF file claims beyond its end; None if its length is not specified.

    0 for all other formats. A program that writes the header before the audio sets the length to 0, or close to the
    largest signed or unsigned number of 32 bits: the audio then ends with the file. RF64 has its length in a separate
    chunk.
    """
    num_bytes = file.seek(0, 2)
    file.seek(0)
    head = file.read(36)
    if head[:4] == b"caff":
        size = _size_of_chunk(file, b"data", 8, 12, lambda field: int.from_bytes(field[4:12], "big", signed=True))
        return max(0, size - num_bytes)
    if head[:4] == b"riff":
        # Sizes include the chunk's own header, and chunks start at multiples of 8.
        size = _size_of_chunk(
            file, b"data", 40, 24, lambda field: (int.from_bytes(field[16:], "little") - 24 + 7) // 8 * 8
        )
        return max(0, size - num_bytes)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:12] != b"WAVE":
        return 0
    large_size = int.from_bytes(head[28:36], "little") if head[12:16] == b"ds64" else None
    place = 12
    for _ in range(_MOST_CHUNKS):
        if place + 8 > num_bytes:
            break
        file.seek(place)
        header = file.read(8)
        size = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            if large_size is not None:
                return max(0, place + 8 + large_size - num_bytes)
            missing = place + 8 + size - num_bytes
            is_unknown = size == 0 or size >= _UNKNOWN_SIZE or (size >= _LARGEST_SIGNED and missing < 0)
            return None if is_unknown or size >= _LARGEST_SIGNED else max(0, missing)
        place += 8 + size + size % 2
    return 0


def _size_of_chunk(
    file: BinaryIO, name: bytes, start: int, header_num_bytes: int, size_in: Callable[[bytes], int]
) -> int:
    """Where the chunk of this name claims to end, in bytes from the start of the file; 0 if there is no such chunk."""
    place, num_bytes = start, file.seek(0, 2)
    for _ in range(_MOST_CHUNKS):
        if place + header_num_bytes > num_bytes:
            break
        file.seek(place)
        header = file.read(header_num_bytes)
        # A negative size means unknown.
        end = place + header_num_bytes + max(0, size_in(header))
        if header.startswith(name):
            return end
        place = end
    return 0


UNREADABLE = "unreadable"
NOT_AUDIO = "not_audio"
TIMED_OUT = "timed_out"
CRASHED = "crashed"

# No playlists and no formats that refer to other files, so that FFmpeg reads nothing but the untrusted file itself.
_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,eac3,flac,flv,ircam,loas,matroska,mov,mp3,mpc,mpc8,mpeg,mpegts,ogg,"
    "tak,tta,voc,w64,wav,wv"
)
# Formats whose header has the exact length of the audio: what is missing was cut off.
_FORMATS_WITH_LENGTH = frozenset(["aiff", "ape", "au", "flac", "mov", "tta", "voc", "wv"])
# Formats whose packets have timestamps: gaps between them were lost.
_FORMATS_WITH_TIMES = frozenset(["ogg", "matroska", "asf"])
# Encoders round lengths up to whole frames; less than this does not count as lost.
_LEAST_LOSS_SECONDS = 0.1
# A header that claims more than this many times the decoded length is wrong.
_MOST_LOSS_RATIO = 100.0
_TAG_SIGNATURES = (b"ID3", b"TAG", b"APETAGEX")
_XING_FRAME_BYTES = 2048
_NUM_SAMPLES_PER_BLOCK = 1 << 15
_BUFFER_BYTES = 1 << 16
# With this many channels or more, PyAV reads beyond a planar frame's list of channels.
_MOST_PLANES = 8
# MP3 frames use bits of earlier frames: at 8 kbit/s and 22,050 Hz, of up to 25 frames of 576 samples each.
_NUM_PRE_ROLL_SAMPLES = 32_768
_NUM_SPARE_SAMPLES = 4096
_NO_AUDIO = "no audio was found in it"


class UnreadableAudioError(ClmrError):
    """A file cannot be used as audio.

    Attributes:
        reason: A code for programs, such as "unreadable" or "not_audio".
        detail: An explanation for people, without the file's path.
        path: The file, if known.
    """

    def __init__(self, reason: str, detail: str, path: Path | None = None) -> None:
        # All arguments go to the base class, so that the error can be pickled between processes.
        super().__init__(reason, detail, path)
        self.reason = reason
        self.detail = detail
        self.path = path

    def __str__(self) -> str:
        subject = "The file" if self.path is None else str(self.path)
        return f"{subject} cannot be used as audio: {self.detail}."


@contextlib.contextmanager
def reported_as_unreadable(path: Path) -> Iterator[None]:
    """Turns every error in a `with` block that only reads the file at `path` into UnreadableAudioError.

    Damaged files can raise any error in decoders, so the types are not listed.

    Raises:
        UnreadableAudioError: Instead of every error except ImportError and MemoryError.
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except UnreadableAudioError as error:
        raise UnreadableAudioError(error.reason, error.detail, path) from error
    except Exception as error:
        detail = getattr(error, "strerror", None) or f"its decoder failed with {type(error).__name__}: {error}"
        raise UnreadableAudioError(UNREADABLE, detail, path) from error


class Block(NamedTuple):
    """Consecutive samples of a file.

    Attributes:
        rate_hz: Sample rate.
        channel_names: The position of each channel in FFmpeg's notation, such as "FL".
        samples: float32 [num_channels, num_samples], full scale is 1.
    """

    rate_hz: int
    channel_names: tuple[str, ...]
    samples: np.ndarray


def _open_decoding(path: Path, stack: contextlib.ExitStack) -> tuple["_Decoding", Block, Iterator[Block]]:
    """Opens a file, which `stack` closes.

    Returns:
        The decoding with its counts, the first block, and an iterator over the other blocks.

    Raises:
        UnreadableAudioError: Here or from the iterator, if no audio is found or most of it cannot be decoded.
    """
    # Opening a named pipe would wait for a writer, perhaps forever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableAudioError(NOT_AUDIO, "it is not a regular file")
    head = read_head(path)
    if not head:
        raise UnreadableAudioError(UNREADABLE, "it is empty")
    file = stack.enter_context(path.open("rb", buffering=0))
    decoding = _Decoding(file)
    blocks = stack.enter_context(contextlib.closing(decoding.blocks()))
    try:
        first = next(blocks, None)
    except UnreadableAudioError as error:
        other = describe_other_content(head)
        if error.detail == _NO_AUDIO and other is not None:
            raise UnreadableAudioError(NOT_AUDIO, f"its content is {other}") from error
        raise
    if first is None:
        raise UnreadableAudioError(UNREADABLE, "none of its audio can be decoded")
    return decoding, first, blocks


class _Section:
    """A part of a file, as a file object for FFmpeg.

    Nothing here raises: PyAV would raise an exception of this object later, while decoding something else.
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.file, self._start, self._end = file, start, end
        self._place = start
        self.error: OSError | None = None

    def read(self, num_bytes: int) -> bytes:
        if self._place >= self._end:
            return b""
        try:
            self.file.seek(self._place)
            content = self.file.read(min(num_bytes, self._end - self._place))
        except OSError as error:
            self.error = error
            return b""
        self._place += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        # Damaged headers make FFmpeg seek outside of the file.
        place = offset + {0: self._start, 1: self._place}.get(whence, self._end)
        if place < self._start:
            return -1
        self._place = place
        return self.tell()

    def tell(self) -> int:
        return self._place - self._start

    @property
    def num_bytes(self) -> int:
        return self._end - self._start

    def num_bytes_without_last_zeros(self) -> int:
        """Its length up to the last byte that is not 0: space reserved by recorders and downloads is not audio."""
        end = self.num_bytes
        while end > 0:
            begin = max(0, end - _BUFFER_BYTES)
            self.seek(begin)
            content = self.read(end - begin).rstrip(b"\0")
            if content:
                return begin + len(content)
            end = begin
        return 0

    def num_frames_claimed_before(self, position: int) -> int:
        """Number of frames claimed by a Xing header before an MP3's first frame, if the file may be cut off; else 0."""
        self.seek(max(0, position - _XING_FRAME_BYTES))
        content = self.read(min(position, _XING_FRAME_BYTES))
        tag = max(content.rfind(b"Xing"), content.rfind(b"Info"))
        if not 0 <= tag <= len(content) - 16 or not content[tag + 7] & 1:
            return 0
        claimed, num_bytes = (int.from_bytes(content[tag + at : tag + at + 4], "big") for at in (8, 12))
        has_size = content[tag + 7] & 2
        is_whole = has_size and self.num_bytes - position >= num_bytes - _XING_FRAME_BYTES
        return 0 if is_whole else claimed


def _open_container(section: _Section) -> "InputContainer":
    """Opens a section with FFmpeg; raises UnreadableAudioError if it has no audio."""
    import av

    av.logging.set_level(None)
    options = {"format_whitelist": _FORMATS}
    if starts_like_wav(section.file):
        # By default, packets are 4 KiB, and probing 5 MB for other codecs takes a fifth of the time.
        options |= {"max_size": str(_BUFFER_BYTES), "probesize": str(4 * _BUFFER_BYTES)}
        if missing_num_bytes(section.file) is None:
            options["ignore_length"] = "1"
    # FFmpeg does not recognise AU files of unspecified length by their content.
    section.seek(0)
    format_name = "au" if section.read(4) == b".snd" else None
    section.seek(0)
    # Before PyAV 19, a title that is not UTF-8 is an error by default; PyAV 19 has no such option.
    title_options = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    try:
        container = av.open(
            section, format=format_name, container_options=options, buffer_size=_BUFFER_BYTES, **title_options
        )
    except (av.FFmpegError, ValueError) as error:
        if section.error is not None:
            raise section.error from error
        raise UnreadableAudioError(UNREADABLE, _NO_AUDIO) from error
    if not container.streams.audio:
        has_video = bool(container.streams.video)
        container.close()
        raise UnreadableAudioError(NOT_AUDIO if has_video else UNREADABLE, "it has no audio stream")
    # One core per file: other files are decoded on the others.
    container.streams.audio[0].codec_context.thread_type = "NONE"
    return container


def source_rate_hz(path: Path) -> int:
    """The sample rate in a file's header; raises UnreadableAudioError if it has no audio."""
    with path.open("rb", buffering=0) as file:
        section = _Section(file, 0, file.seek(0, 2))
        with _open_container(section) as container:
            return container.streams.audio[0].rate


def decode_range(path: Path, first_sample: int, num_samples: int) -> np.ndarray:
    """Decodes a part of a file to mono, without decoding what comes before.

    Equal to that part of the whole file if the file has a single link and correct timestamps, which the caller checks.

    Args:
        path: The file.
        first_sample: Start of the part, at the file's own rate.
        num_samples: Its length.

    Returns:
        float32 [num_samples], or fewer at the end of the file.

    Raises:
        UnreadableAudioError: If it has no audio.
    """
    import av

    with path.open("rb", buffering=0) as file:
        section = _Section(file, 0, file.seek(0, 2))
        with _open_container(section) as container:
            stream = container.streams.audio[0]
            start_time = stream.start_time or 0
            pre_roll_first = max(0, first_sample - _NUM_PRE_ROLL_SAMPLES)
            if pre_roll_first:
                container.seek(start_time + int(pre_roll_first / stream.rate / stream.time_base), stream=stream)
            pieces: list[np.ndarray] = [np.zeros(0, np.float32)]
            num_decoded, first_places = 0, []
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    continue
                for frame in frames:
                    place = round((frame.pts - start_time) * stream.time_base * stream.rate)
                    first_places.append(place - num_decoded)
                    block = _block(frame)
                    pieces.append(mixed_to_mono(block.samples, block.channel_names))
                    num_decoded += len(pieces[-1])
                if first_places and first_places[-1] + num_decoded >= first_sample + num_samples + _NUM_SPARE_SAMPLES:
                    break
    # After a seek, some frames of Ogg Vorbis begin before their timestamps, so the most frequent offset is used.
    first_place = statistics.mode(first_places) if pre_roll_first and first_places else 0
    skipped = max(0, first_sample - first_place)
    return np.concatenate(pieces)[skipped : skipped + num_samples]


class _Decoding:
    """Decodes the sections of one file, and counts what could and could not be decoded."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._num_bytes = file.seek(0, 2)
        self._num_decoded_packets = self._num_failed_packets = 0
        self._num_decoded_bytes = self._num_failed_bytes = 0
        self._decoded_seconds = self._missing_seconds = 0.0

    def lost_seconds(self) -> float:
        """The estimated duration of what could not be decoded; valid after the last block."""
        seconds_per_byte = self._decoded_seconds / max(1, self._num_decoded_bytes)
        return self._missing_seconds + self._num_failed_bytes * seconds_per_byte

    def blocks(self) -> Iterator[Block]:
        """Decodes the file; raises UnreadableAudioError if there is no audio, or most of it cannot be decoded."""
        links = ogg_links(self._file, starts_with_page=True)
        if links:
            yield from self._decode_links(links)
        else:
            try:
                yield from self._decode_section(0, self._num_bytes)
            except UnreadableAudioError as error:
                links = ogg_links(self._file, starts_with_page=False) if error.detail == _NO_AUDIO else []
                start = None if links else late_start(self._file)
                if error.detail != _NO_AUDIO or (not links and start is None):
                    raise
                yield from self._decode_links(links) if links else self._decode_section(start, self._num_bytes)
        if self._num_failed_packets > self._num_decoded_packets:
            raise UnreadableAudioError(UNREADABLE, "most of it cannot be decoded")

    def _decode_links(self, links: list[int]) -> Iterator[Block]:
        for start, end in zip(links, [*links[1:], self._num_bytes], strict=True):
            try:
                yield from self._decode_section(start, end)
            except UnreadableAudioError:
                if len(links) == 1:
                    raise
                self._num_failed_bytes += end - start

    def _decode_section(self, start: int, end: int) -> Iterator[Block]:
        section = _Section(self._file, start, end)
        with _open_container(section) as container:
            yield from self._decode_stream(container, section)
        if section.error is not None:
            raise section.error
        self._num_failed_bytes += missing_num_bytes(self._file) or 0

    def _decode_stream(self, container: "InputContainer", section: _Section) -> Iterator[Block]:
        import av

        stream = container.streams.audio[0]
        blocks = _BlockQueue()
        first_packet = last_packet = None
        num_failed_bytes = 0
        has_times = not _FORMATS_WITH_TIMES.isdisjoint(container.format.name.split(","))
        next_seconds = None
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                # The container is damaged from here on.
                position = (last_packet.pos or 0) + last_packet.size if last_packet else 0
                if not has_times:
                    self._num_failed_bytes += max(0, section.num_bytes_without_last_zeros() - position)
                break
            if packet is None:
                break
            first_packet = first_packet or packet
            last_packet = packet
            try:
                frames = packet.decode()
            except av.FFmpegError:
                if not bytes(packet)[:8].startswith(_TAG_SIGNATURES):
                    self._num_failed_packets += 1
                    num_failed_bytes += packet.size
                continue
            if not frames:
                continue
            # What fails before the first or after the last frame is a tag or junk, not audio.
            if num_failed_bytes and blocks.decoded_seconds > 0 and not has_times:
                self._num_failed_bytes += num_failed_bytes
            num_failed_bytes = 0
            self._num_decoded_packets += 1
            self._num_decoded_bytes += packet.size
            for frame in frames:
                if has_times and frame.pts is not None:
                    begin_seconds = float(frame.pts * frame.time_base)
                    gap_seconds = begin_seconds - (begin_seconds if next_seconds is None else next_seconds)
                    self._missing_seconds += gap_seconds if gap_seconds > _LEAST_LOSS_SECONDS else 0.0
                    next_seconds = begin_seconds + frame.samples / frame.sample_rate
                yield from blocks.add(frame)
        yield from blocks.rest()
        self._decoded_seconds += blocks.decoded_seconds
        claimed_seconds = _claimed_seconds(container, section, first_packet)
        shortfall_seconds = (claimed_seconds or 0.0) - blocks.decoded_seconds
        if _LEAST_LOSS_SECONDS < shortfall_seconds < _MOST_LOSS_RATIO * blocks.decoded_seconds:
            # This includes the packets that failed.
            self._missing_seconds += shortfall_seconds
            self._num_failed_bytes = 0


def _claimed_seconds(container: "InputContainer", section: _Section, first_packet: "Packet | None") -> float | None:
    """The length of a stream, where its format specifies it exactly; else None."""
    stream = container.streams.audio[0]
    if container.format.name == "mp3" and first_packet is not None and first_packet.pos is not None:
        num_frames = section.num_frames_claimed_before(first_packet.pos)
        return num_frames * stream.codec_context.frame_size / stream.rate
    has_length = not _FORMATS_WITH_LENGTH.isdisjoint(container.format.name.split(","))
    return float(stream.duration * stream.time_base) if has_length and stream.duration is not None else None


class _BlockQueue:
    """Joins the frames of a decoder, of about 20 ms each, into blocks."""

    def __init__(self) -> None:
        import av

        self.decoded_seconds = 0.0
        self._new_fifo = av.AudioFifo
        self._fifo = self._new_fifo()
        self._form: tuple[int, str, str, int] | None = None

    def add(self, frame: "AudioFrame") -> Iterator[Block]:
        frame.pts = None
        # The FIFO accepts frames with another layout, and then reads channels that do not exist.
        form = (frame.sample_rate, frame.format.name, frame.layout.name, frame.layout.nb_channels)
        if form != self._form:
            yield from self.rest()
            self._fifo, self._form = self._new_fifo(), form
        self._fifo.write(frame)
        if self._fifo.samples >= _NUM_SAMPLES_PER_BLOCK:
            yield from self.rest()

    def rest(self) -> Iterator[Block]:
        frame = self._fifo.read()
        if frame is not None:
            self.decoded_seconds += frame.samples / frame.sample_rate
            yield _block(frame)


def _block(frame: "AudioFrame") -> Block:
    names = tuple(channel.name for channel in frame.layout.channels)
    if frame.format.is_planar and len(names) >= _MOST_PLANES:
        import av

        (frame,) = av.AudioResampler("flt").resample(frame)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(names)).T
    if np.issubdtype(samples.dtype, np.integer):
        limits = np.iinfo(samples.dtype)
        middle = 0 if limits.min < 0 else (limits.max + 1) // 2
        samples = (samples.astype(np.float32) - middle) / (limits.max + 1 - middle)
    return Block(frame.sample_rate, names, samples.astype(np.float32, copy=False))


RESAMPLING_QUALITY = "VHQ"
# -80 dB: three steps of 16-bit audio, below which there is nothing but dither.
SILENCE_PEAK = 1e-4

# A header with a rate outside this range is damaged, and resampling from it could make one file fill the disk.
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 2_000, 1_000_000
# Float files may exceed full scale, but not by a factor of thirty: those are 16-bit integers stored as floats.
_HIGHEST_PLAUSIBLE_PEAK = 32.0


@dataclasses.dataclass
class AudioReport:
    """Properties of a recording, complete once all of it is decoded.

    Attributes:
        num_samples: Length at the requested rate.
        peak: Largest magnitude.
        lost_seconds: Estimated duration of what could not be decoded.
        channels_cancel: Whether channels with sound cancel each other to silence in the mono mix.
    """

    num_samples: int = 0
    peak: float = 0.0
    lost_seconds: float = 0.0
    channels_cancel: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether nothing in the mono mix exceeds -80 dB."""
        return self.peak <= SILENCE_PEAK


@dataclasses.dataclass(frozen=True)
class AudioStream:
    """An open file.

    Attributes:
        source_rate_hz: Sample rate of the file, or of its first part.
        source_num_channels: Channels of the file, or of its first part.
        report: Complete after the last block.
        blocks: The audio in mono float32 [num_samples] blocks of any length at the requested rate, nominally in
            [-1, 1]: lossy codecs and float files may overshoot. Can be iterated once.
    """

    source_rate_hz: int
    source_num_channels: int
    report: AudioReport
    blocks: Iterator[np.ndarray]


def load_audio(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Decodes a whole file to mono.

    Args:
        path: Any regular file that FFmpeg reads.
        sample_rate_hz: Requested rate; the result has round(num_frames * sample_rate_hz / source rate) samples.

    Returns:
        float32 [num_samples], nominally in [-1, 1].

    Raises:
        UnreadableAudioError: If no audio is found, most of it cannot be decoded, or it contains NaN or infinite
            samples.
    """
    with open_audio(path, sample_rate_hz) as stream:
        return np.concatenate([np.zeros(0, np.float32), *stream.blocks])


def flaws_of(*, is_silent: bool, lost_seconds: float) -> list[str]:
    """Warnings about a usable recording, each as the end of a sentence about it."""
    flaws = ["is silent"] if is_silent else []
    return [*flaws, f"is damaged: about {lost_seconds:.2f} s cannot be decoded"] if lost_seconds > 0 else flaws


@contextlib.contextmanager
def open_audio(path: Path | str, sample_rate_hz: int) -> Iterator[AudioStream]:
    """Opens a file for decoding in blocks, which together are what `load_audio` returns.

    A truncated or damaged file is decoded as far as possible; the report says how much is lost.

    Args:
        path: Any regular file that FFmpeg reads.
        sample_rate_hz: Rate of the blocks.

    Raises:
        UnreadableAudioError: On opening or from the iterator, see `load_audio`.
    """
    path = Path(path)
    report = AudioReport()
    with contextlib.ExitStack() as stack:
        with reported_as_unreadable(path):
            decoding, first, others = _open_decoding(path, stack)
            _require_plausible_rate(first.rate_hz)

        def blocks() -> Iterator[np.ndarray]:
            mono = _mix_to_mono(itertools.chain([first], others), report)
            for block in _resample(mono, sample_rate_hz):
                report.num_samples += len(block)
                report.peak = max(report.peak, float(np.abs(block).max(initial=0.0)))
                yield block
            report.lost_seconds = decoding.lost_seconds()

        # Wraps the blocks, not the yield: an error of the caller is not an error of the file.
        yield AudioStream(first.rate_hz, len(first.samples), report, _reporting_errors(path, blocks()))


def _require_plausible_rate(rate_hz: int) -> None:
    if not _LOWEST_RATE_HZ <= rate_hz <= _HIGHEST_RATE_HZ:
        raise UnreadableAudioError(UNREADABLE, f"it claims a sample rate of {rate_hz} Hz")


def _reporting_errors(path: Path, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    with reported_as_unreadable(path):
        yield from blocks


def decoder_versions() -> dict[str, str]:
    """Versions of the libraries that decode and resample."""
    import av

    libraries = {name: ".".join(map(str, av.library_versions[name])) for name in ("libavformat", "libavcodec")}
    return {"av": av.__version__, **libraries, "soxr": metadata.version("soxr")}


def require_decoders(versions: Mapping[str, str]) -> None:
    """Raises UsageError unless this machine has the given `decoder_versions`."""
    found = decoder_versions()
    for library, version in versions.items():
        if found[library] != version:
            raise UsageError(f"Its version of {library} is {found[library]}, not {version}; install the same.")


def _mix_to_mono(blocks: Iterator[Block], report: AudioReport) -> Iterator[tuple[int, np.ndarray]]:
    """Rate and mono samples of each block."""
    for block in blocks:
        if not block.samples.size:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            mono = mixed_to_mono(block.samples, block.channel_names)
        # NaN and infinity both propagate to the maximum.
        peak = float(np.abs(mono).max())
        if not np.isfinite(peak):
            raise UnreadableAudioError(UNREADABLE, "it contains NaN or infinite samples")
        if peak > _HIGHEST_PLAUSIBLE_PEAK:
            raise UnreadableAudioError(UNREADABLE, f"its samples reach {peak:.4g} where full scale is 1")
        if peak <= SILENCE_PEAK and float(np.abs(block.samples).max()) > SILENCE_PEAK:
            report.channels_cancel = True
        yield block.rate_hz, mono


def _resample(blocks: Iterator[tuple[int, np.ndarray]], sample_rate_hz: int) -> Iterator[np.ndarray]:
    # The rate may change within a concatenated file.
    for source_rate_hz, part in itertools.groupby(blocks, key=lambda block: block[0]):
        _require_plausible_rate(source_rate_hz)
        if source_rate_hz == sample_rate_hz:
            yield from (samples for _, samples in part)
            continue
        resampler = soxr.ResampleStream(source_rate_hz, sample_rate_hz, 1, "float32", RESAMPLING_QUALITY)
        for _, samples in part:
            yield resampler.resample_chunk(samples)
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
