"""Concatenated, mislabelled and damaged files are decoded whole, and losses are reported.

The reference is libsndfile on each healthy part; the ffmpeg program gives the same lengths to 0.1 s for such files.
"""

import collections
import errno
import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from clmr_tf.audio.decoding import UnreadableAudioError, load_audio, missing_num_bytes, open_audio
from clmr_tf.audio.downmix import mixed_to_mono, mono_weights, weights_of_channels
from tests.sounds import level_db, noise, tone, write_encoded, write_sound
from tests.synthetic import melody

RATE_HZ = 22_050
SECONDS = 4.0


def encoded(kind: str, seed: int, rate_hz: int = 44_100, num_channels: int = 2, **options) -> bytes:
    """A healthy file; each seed has another melody."""
    song = melody(seed, round(SECONDS * rate_hz), rate_hz)
    content = io.BytesIO()
    samples = song if num_channels == 1 else np.stack([song, 0.5 * song], axis=1)
    soundfile.write(content, samples, rate_hz, format=kind, **options)
    return content.getvalue()


def reference(content: bytes) -> np.ndarray:
    """What libsndfile decodes, averaged, at RATE_HZ."""
    import soxr

    samples, rate_hz = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate_hz, RATE_HZ, "VHQ")


def assert_decoded(path: Path, *parts: bytes, lost_seconds: float = 0.0) -> None:
    """The file consists of these parts in this order: length to 0.1 s, correlation above 0.99."""
    with open_audio(path, RATE_HZ) as stream:
        audio = np.concatenate(list(stream.blocks))
    expected = [reference(part) for part in parts]
    # Every MP3 after the first includes its encoder's delay and padding.
    assert abs(len(audio) - sum(map(len, expected))) < 0.1 * RATE_HZ * len(parts)
    begin = 0
    for part in expected:
        inner = part[RATE_HZ // 10 : -RATE_HZ // 10]
        place = begin + place_of(inner, audio[begin : begin + len(part) + RATE_HZ // 2])
        # An encoder's delay is not a whole number of samples at this rate.
        shifted = np.stack([audio[place + shift : place + shift + len(inner)] for shift in range(-3, 4)], axis=1)
        heard = shifted @ np.linalg.lstsq(shifted, inner, rcond=None)[0]
        assert np.corrcoef(heard, inner)[0, 1] > 0.99
        heard = audio[place : place + len(inner)]
        assert abs(level_db(heard) - level_db(inner)) < 0.1
        begin = place + len(inner)
    assert stream.report.lost_seconds == pytest.approx(lost_seconds, abs=0.06)
    assert stream.report.num_samples == len(audio)


def place_of(sound: np.ndarray, audio: np.ndarray) -> int:
    """Offset of `sound` in `audio`, by cross-correlation."""
    size = 2 ** int(np.ceil(np.log2(len(audio) + len(sound))))
    products = np.fft.irfft(np.fft.rfft(audio, size) * np.conj(np.fft.rfft(sound, size)), size)
    return int(np.argmax(products[: len(audio) - len(sound) + 1]))


def mp3(seed: int, rate_hz: int = 44_100, num_channels: int = 2) -> bytes:
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    return encoded("MP3", seed, rate_hz, num_channels, **options)


def frame_num_bytes(content: bytes, start: int = 0) -> int:
    """Length of the frame of MPEG-1 layer III that begins at `start`."""
    assert content[start] == 0xFF and content[start + 1] & 0xFE == 0xFA
    kbit = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[content[start + 2] >> 4]
    rate_hz = (44_100, 48_000, 32_000)[content[start + 2] >> 2 & 3]
    return 144_000 * kbit // rate_hz + (content[start + 2] >> 1 & 1)


def with_xing_frames(content: bytes, count: int) -> bytes:
    tag = max(content.find(b"Xing"), content.find(b"Info"))
    assert 0 < tag < 200 and content[tag + 7] & 1
    return content[: tag + 8] + count.to_bytes(4, "big") + content[tag + 12 :]


def id3v2(num_bytes: int, claimed_num_bytes: int) -> bytes:
    size = bytes(claimed_num_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    picture = np.random.default_rng(0).integers(0, 250, num_bytes, np.uint8).tobytes()
    return b"ID3\x03\0\0" + size + picture


def apev2(num_bytes: int) -> bytes:
    head = b"APETAGEX" + (2000).to_bytes(4, "little") + (num_bytes + 32).to_bytes(4, "little")
    return head + (1).to_bytes(4, "little") + (0xA0000000).to_bytes(4, "little") + bytes(8) + b"t" * num_bytes


MP3_KINDS = {
    "no Xing header": (lambda song: song[frame_num_bytes(song) :], (1,)),
    "Xing header of 0 frames": (lambda song: with_xing_frames(song, 0), (1,)),
    "joined": (lambda song: song + mp3(2), (1, 2)),
    "joined with an ID3 tag between": (lambda song: song + id3v2(3000, 3000) + mp3(2), (1, 2)),
    "segments of a stream": (lambda song: song[frame_num_bytes(song) :] + mp3(2) + mp3(3), (1, 2, 3)),
    "APEv2 tag first": (lambda song: apev2(5000) + song, (1,)),
    "ID3 size too small": (lambda song: id3v2(20_000, 700) + song, (1,)),
    "ID3v1 tag last": (lambda song: song + b"TAG" + b"title".ljust(125), (1,)),
}


@pytest.mark.parametrize("kind", MP3_KINDS)
def test_mp3(tmp_path, kind):
    write, seeds = MP3_KINDS[kind]
    (tmp_path / "song.mp3").write_bytes(write(mp3(1)))
    assert_decoded(tmp_path / "song.mp3", *(mp3(seed) for seed in seeds))


@pytest.mark.parametrize("nums_channels", [(1, 2, 2), (2, 1, 2), (2, 1, 1)])
@pytest.mark.parametrize("rates_hz", [(44_100, 32_000, 44_100), (44_100, 44_100, 44_100)])
def test_mp3_of_several_rates_and_channels(tmp_path, rates_hz, nums_channels):
    parts = [mp3(seed, *form) for seed, form in enumerate(zip(rates_hz, nums_channels, strict=True))]
    (tmp_path / "song.mp3").write_bytes(b"".join(parts))
    assert_decoded(tmp_path / "song.mp3", *parts)


@pytest.mark.parametrize(("kind", "extension"), [("OGG", "ogg"), ("FLAC", "flac")])
@pytest.mark.parametrize("rates_hz", [(44_100, 44_100), (44_100, 32_000)])
def test_chained_ogg_and_joined_flac(tmp_path, kind, extension, rates_hz):
    parts = [encoded(kind, seed, rate_hz) for seed, rate_hz in enumerate(rates_hz)]
    (tmp_path / f"song.{extension}").write_bytes(b"".join(parts))
    assert_decoded(tmp_path / f"song.{extension}", *parts)


def test_chained_opus(tmp_path):
    parts = [encoded("OGG", 1, 48_000, 2, subtype="OPUS"), encoded("OGG", 2, 48_000, 1, subtype="OPUS")]
    (tmp_path / "song.opus").write_bytes(b"".join(parts))
    assert_decoded(tmp_path / "song.opus", *parts)


JUNK = {
    "ID3v1": b"TAG" + bytes(125),
    "zeros": bytes(5000),
    "noise": np.random.default_rng(1).integers(0, 256, 5000, np.uint8).tobytes(),
}


@pytest.mark.parametrize("junk", JUNK)
def test_junk_behind_flac_and_before_ogg(tmp_path, junk):
    flac, ogg = encoded("FLAC", 1), encoded("OGG", 2)
    (tmp_path / "song.flac").write_bytes(flac + JUNK[junk])
    (tmp_path / "song.ogg").write_bytes(JUNK[junk] + ogg)
    assert_decoded(tmp_path / "song.flac", flac)
    assert_decoded(tmp_path / "song.ogg", ogg)


@pytest.mark.parametrize("kind", ["OGG", "MP3", "FLAC", "W64", "CAF"])
def test_zeros_behind_the_audio_do_not_count_as_lost(tmp_path, kind):
    content = encoded(kind, 1)
    (tmp_path / "song").write_bytes(content + bytes(100_000))
    assert_decoded(tmp_path / "song", content)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF"])
def test_a_tag_before_the_audio(tmp_path, kind):
    content = encoded(kind, 1)
    (tmp_path / "song").write_bytes(id3v2(1000, 1000) + content)
    assert_decoded(tmp_path / "song", content)


def test_an_au_file_of_unspecified_length(tmp_path):
    content = encoded("AU", 1)
    (tmp_path / "song.au").write_bytes(content[:8] + bytes(4) + content[12:])
    assert_decoded(tmp_path / "song.au", content)


def test_an_excessive_length_in_a_header_does_not_count_as_lost(tmp_path):
    flac, whole_mp3 = bytearray(encoded("FLAC", 1)), encoded("MP3", 2)
    # The upper bits of the number of samples in STREAMINFO.
    flac[21] |= 0x0F
    (tmp_path / "song.flac").write_bytes(flac)
    assert_decoded(tmp_path / "song.flac", encoded("FLAC", 1))
    claimed = bytearray(whole_mp3)
    place = max(claimed.find(b"Xing"), claimed.find(b"Info")) + 8
    claimed[place : place + 4] = (2 * int.from_bytes(claimed[place : place + 4], "big")).to_bytes(4, "big")
    (tmp_path / "song.mp3").write_bytes(claimed)
    assert_decoded(tmp_path / "song.mp3", whole_mp3)


@pytest.mark.parametrize("kind", ["FLAC", "MP3", "WAV", "AIFF", "RF64", "W64", "CAF"])
def test_truncated_files_are_decoded_up_to_their_end(tmp_path, kind):
    content = encoded(kind, 1)
    whole = reference(content)
    (tmp_path / "song").write_bytes(content[: len(content) * 2 // 3])
    with open_audio(tmp_path / "song", RATE_HZ) as stream:
        audio = np.concatenate(list(stream.blocks))
    assert 0.5 * len(whole) < len(audio) < 0.8 * len(whole)
    assert np.corrcoef(audio[:-2000], whole[: len(audio) - 2000])[0, 1] > 0.99
    assert stream.report.lost_seconds == pytest.approx((len(whole) - len(audio)) / RATE_HZ, abs=0.1)


class CountedFile(io.BytesIO):
    num_reads = 0

    def read(self, *arguments):
        self.num_reads += 1
        return super().read(*arguments)


@pytest.mark.parametrize("head", [b"RIFF\xff\xff\xff\x7fWAVE", b"caff" + bytes(4), b"riff" + bytes(36)])
def test_endless_empty_chunks_are_not_followed(head):
    file = CountedFile(head + bytes(200_000))
    assert missing_num_bytes(file) == 0
    assert file.num_reads < 2000


def test_a_truncated_wav_with_a_large_chunk_before_its_audio(tmp_path):
    content = encoded("WAV", 1)
    place = content.index(b"data")
    content = content[:place] + b"LIST" + (200_000).to_bytes(4, "little") + bytes(200_000) + content[place:]
    (tmp_path / "song.wav").write_bytes(content[: -44_100 * 4])
    with open_audio(tmp_path / "song.wav", RATE_HZ) as stream:
        assert sum(map(len, stream.blocks)) == pytest.approx((SECONDS - 1) * RATE_HZ, abs=10)
    assert stream.report.lost_seconds == pytest.approx(1.0, abs=0.01)


def test_the_loss_in_a_damaged_ogg_is_the_gap_between_its_pages(tmp_path):
    content = bytearray(encoded("OGG", 1))
    middle = len(content) // 2
    content[middle : middle + 4096] = JUNK["noise"][:4096]
    (tmp_path / "song.ogg").write_bytes(content)
    with open_audio(tmp_path / "song.ogg", RATE_HZ) as stream:
        audio = np.concatenate(list(stream.blocks))
    lost_seconds = SECONDS - len(audio) / RATE_HZ
    assert 0.1 < lost_seconds < 3 and stream.report.lost_seconds == pytest.approx(lost_seconds, abs=0.1)


def test_a_link_without_audio_is_lost_and_the_others_are_decoded(tmp_path):
    whole = encoded("OGG", 1)
    (tmp_path / "song.ogg").write_bytes(whole + whole.replace(b"vorbis", b"nobody") + whole)
    with open_audio(tmp_path / "song.ogg", RATE_HZ) as stream:
        audio = np.concatenate(list(stream.blocks))
    # The resampler runs across the boundary of the links.
    np.testing.assert_allclose(audio, np.tile(reference(whole), 2), atol=5e-3)
    # Estimated from bytes, those of headers included.
    assert stream.report.lost_seconds == pytest.approx(SECONDS, rel=0.15)


def test_an_error_of_the_disk_is_reported(tmp_path, monkeypatch):
    class FailingFile(io.FileIO):
        def read(self, num_bytes=-1):
            if self.tell() >= 1 << 16:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(num_bytes)

    (tmp_path / "song.flac").write_bytes(encoded("FLAC", 1))
    open_path = Path.open

    def open_failing(path, mode="r", buffering=-1, **options):
        return FailingFile(path) if buffering == 0 else open_path(path, mode, buffering, **options)

    monkeypatch.setattr(Path, "open", open_failing)
    with pytest.raises(UnreadableAudioError, match="Input/output error"):
        load_audio(tmp_path / "song.flac", RATE_HZ)


@pytest.mark.parametrize("kind", ["FLAC", "MP3"])
def test_only_a_damaged_section_is_lost(tmp_path, kind):
    content = bytearray(encoded(kind, 1))
    middle = len(content) // 2
    content[middle : middle + 4096] = JUNK["noise"][:4096]
    whole = reference(encoded(kind, 1))
    (tmp_path / "song").write_bytes(content)
    with open_audio(tmp_path / "song", RATE_HZ) as stream:
        audio = np.concatenate(list(stream.blocks))
    lost_seconds = (len(whole) - len(audio)) / RATE_HZ
    assert 0 < lost_seconds < 0.5 and stream.report.lost_seconds == pytest.approx(lost_seconds, abs=0.1)
    assert_begins_and_ends_like(audio, whole)


def assert_begins_and_ends_like(audio: np.ndarray, whole: np.ndarray) -> None:
    quarter = len(whole) // 4
    for sound in (whole[1000:quarter], whole[-quarter:-1000]):
        place = place_of(sound, audio)
        assert np.corrcoef(audio[place : place + len(sound)], sound)[0, 1] > 0.99


def test_a_xing_header_with_too_few_frames_does_not_end_the_file(tmp_path):
    # As FFmpeg does, the encoder's padding is cut out where the header says that the end is.
    (tmp_path / "song.mp3").write_bytes(with_xing_frames(mp3(1), 50))
    audio, whole = load_audio(tmp_path / "song.mp3", RATE_HZ), reference(mp3(1))
    assert abs(len(audio) - len(whole)) < 0.1 * RATE_HZ
    assert_begins_and_ends_like(audio, whole)


@pytest.mark.parametrize("claimed_num_bytes", [0, 0xFFFFFFFF, 0xFFFFFFFE])
def test_a_wav_of_unspecified_length_is_decoded_to_its_end(tmp_path, claimed_num_bytes):
    content = bytearray(encoded("WAV", 1))
    data = content.find(b"data")
    for place in (4, data + 4):
        content[place : place + 4] = claimed_num_bytes.to_bytes(4, "little")
    (tmp_path / "song.wav").write_bytes(content)
    assert_decoded(tmp_path / "song.wav", encoded("WAV", 1))


@pytest.mark.soak
def test_a_wav_of_more_than_4_gib_is_decoded_to_its_end(tmp_path):
    # Eight channels of 64-bit floats at the wanted rate: fewest samples for the bytes; a hole, so no disk is filled.
    num_frames, frame_bytes = 2**32 // 64 + RATE_HZ, 64
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros([1, 8]), RATE_HZ, subtype="DOUBLE")
    content = bytearray(path.read_bytes())
    data = content.find(b"data")
    content[data + 4 : data + 8] = b"\xff\xff\xff\xff"
    with path.open("wb") as file:
        file.write(content[: data + 8])
        file.truncate(data + 8 + num_frames * frame_bytes)
        file.seek(-frame_bytes, 2)
        file.write(np.full(8, 0.25).tobytes())
    with open_audio(path, RATE_HZ) as stream:
        last = collections.deque(stream.blocks, 1)[0]
    assert stream.report.num_samples == num_frames and stream.report.lost_seconds == 0
    assert last[-1] == pytest.approx(0.25 * mono_weights(8).sum(), rel=1e-6) and last[-2] == 0


@pytest.mark.parametrize("name", ["jazz.00054.au", "song.snd", "song.vox", "song.gsm", "song.raw", "song.mp3"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"<!DOCTYPE html><html>" + b"<p>Not found</p>" * 4000, "not_audio"), (JUNK["noise"] * 10, "unreadable")],
    ids=["page", "bytes"],
)
def test_other_content_is_rejected_whatever_the_extension(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableAudioError) as caught:
        load_audio(tmp_path / name, RATE_HZ)
    assert caught.value.reason == reason
    assert caught.value.detail in ("its content is text", "no audio was found in it")


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:4,\n{0}\n", "ffconcat version 1.0\nfile '{0}'\n"])
def test_playlists_open_no_other_file(tmp_path, text):
    write_sound(tmp_path / "other.wav", tone(440.0, 2.0, 44100), 44100, "WAV")
    (tmp_path / "song.mp3").write_text(text.format(tmp_path / "other.wav"))
    with pytest.raises(UnreadableAudioError, match="its content is text"):
        load_audio(tmp_path / "song.mp3", RATE_HZ)


@pytest.mark.parametrize(("container", "codec"), [("webm", "libopus"), ("mp4", "aac"), ("matroska", "aac")])
def test_the_sound_of_films(tmp_path, container, codec):
    samples = tone(997.0, 3.0, 48_000)
    write_encoded(tmp_path / "film", np.stack([samples, samples]), 48_000, codec, container)
    audio = load_audio(tmp_path / "film", RATE_HZ)
    assert abs(len(audio) / RATE_HZ - 3.0) < 0.1
    assert abs(level_db(audio[RATE_HZ:-RATE_HZ]) - level_db(samples)) < 0.2


def test_surround_sound_is_mixed_by_itu_r_bs_775(tmp_path):
    # Left, right, centre, low frequencies, left and right surround, each a tone of its own.
    frequencies_hz = [400.0, 700.0, 1100.0, 60.0, 1700.0, 2300.0]
    samples = np.stack([tone(f, 2.0, 48_000, 0.2) for f in frequencies_hz], axis=1)
    write_sound(tmp_path / "film.wav", samples, 48_000, "WAV", "FLOAT")
    audio = load_audio(tmp_path / "film.wav", RATE_HZ)[RATE_HZ // 2 : -RATE_HZ // 2]
    times = np.arange(len(audio)) / RATE_HZ
    heard = [2 * np.abs(np.mean(audio * np.exp(-2j * np.pi * f * times))) / 0.2 for f in frequencies_hz]
    # The stereo mix is L + 0.7071 C + 0.7071 Ls and R + 0.7071 C + 0.7071 Rs; here is the mean of both.
    np.testing.assert_allclose(heard, [0.5, 0.5, 0.7071, 0.0, 0.3536, 0.3536], atol=1e-3)


@pytest.mark.parametrize("layout", ["3.0", "2.1", "quad", "4.0", "5.0", "5.1", "5.1(side)", "6.1", "7.1"])
def test_the_mix_is_that_of_ffmpeg(layout):
    names = tuple(channel.name for channel in av.AudioLayout(layout).channels)
    channels = np.stack([noise(0.1, 48_000, seed, 0.02) for seed in range(len(names))])
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels.T).reshape(1, -1), "flt", layout)
    frame.sample_rate = 48_000
    (stereo,) = av.AudioResampler("fltp", "stereo").resample(frame)
    np.testing.assert_allclose(mixed_to_mono(channels, names), stereo.to_ndarray().mean(axis=0), atol=1e-6)


def test_eight_planar_channels(tmp_path):
    # FFmpeg's Vorbis decoder gives each channel in an array of its own.
    channels = np.stack([tone(300.0 * (number + 1), 2.0, 44_100, 0.1) for number in range(8)], axis=1)
    write_sound(tmp_path / "eight.ogg", channels, 44_100, "OGG", "VORBIS")
    audio = load_audio(tmp_path / "eight.ogg", RATE_HZ)
    expected = 10 * np.log10(np.sum((0.1 * mono_weights(8)) ** 2) / 2)
    assert abs(level_db(audio[1000:-1000]) - expected) < 0.2


def test_channels_without_positions():
    np.testing.assert_allclose(mono_weights(2), [0.5, 0.5])
    np.testing.assert_allclose(mono_weights(11), np.full(11, 1 / 11))
    np.testing.assert_allclose(mono_weights(6), weights_of_channels(("FL", "FR", "FC", "LFE", "BL", "BR")))
    np.testing.assert_allclose(weights_of_channels(("FL", "FR", "NONE")), [0.5, 0.5, 0])


def test_cancelling_channels_are_distinguished_from_silence(tmp_path):
    samples = tone(440.0, 1.0, 44_100)
    write_sound(tmp_path / "opposite.wav", np.stack([samples, -samples], axis=1), 44_100, "WAV", "FLOAT")
    write_sound(tmp_path / "silent.wav", 1e-5 * samples, 44_100, "WAV", "FLOAT")
    for name, cancel in (("opposite", True), ("silent", False)):
        with open_audio(tmp_path / f"{name}.wav", RATE_HZ) as stream:
            list(stream.blocks)
        assert stream.report.is_silent and stream.report.channels_cancel == cancel
