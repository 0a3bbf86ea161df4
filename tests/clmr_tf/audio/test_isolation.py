"""A decoder process that crashes or hangs fails its file only; the next one is decoded normally."""

import signal

import numpy as np
import psutil
import pytest

from clmr_tf.audio.decoding import UnreadableAudioError, load_audio
from clmr_tf.audio.isolation import IsolatedDecoder
from tests.sounds import noise, write_sound

RATE_HZ = 22_050


@pytest.fixture
def song(tmp_path):
    write_sound(tmp_path / "song.flac", noise(60.0, 44_100, seed=1), 44_100, "FLAC")
    return tmp_path / "song.flac"


def decoder_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def decoded(decoder, path):
    with decoder.open(path, RATE_HZ) as stream:
        return np.concatenate(list(stream.blocks)), stream


def test_it_returns_the_same_audio_as_decoding_in_this_process(song):
    with IsolatedDecoder() as decoder:
        audio, stream = decoded(decoder, song)
    np.testing.assert_array_equal(audio, load_audio(song, RATE_HZ))
    assert (stream.source_rate_hz, stream.source_num_channels) == (44_100, 1)
    assert stream.report.num_samples == len(audio) and stream.report.peak == np.abs(audio).max()
    assert not decoder_processes()


def test_it_raises_the_same_errors_as_decoding_in_this_process(tmp_path):
    (tmp_path / "page.mp3").write_text("<html>" * 100)
    with IsolatedDecoder() as decoder, pytest.raises(UnreadableAudioError, match="its content is text") as caught:
        decoded(decoder, tmp_path / "page.mp3")
    assert caught.value.path == tmp_path / "page.mp3"


@pytest.mark.parametrize(
    ("number", "reason", "detail"),
    [(signal.SIGSEGV, "crashed", "exit code -11"), (signal.SIGSTOP, "timed_out", "for 2 s")],
)
def test_a_decoder_that_crashes_or_hangs_is_restarted_for_the_next_file(song, number, reason, detail):
    with IsolatedDecoder(reply_limit_seconds=2) as decoder:
        with pytest.raises(UnreadableAudioError) as caught, decoder.open(song, RATE_HZ) as stream:
            next(stream.blocks)
            (process,) = decoder_processes()
            process.send_signal(number)
            list(stream.blocks)
        assert caught.value.reason == reason and detail in caught.value.detail
        audio, _ = decoded(decoder, song)
    np.testing.assert_array_equal(audio, load_audio(song, RATE_HZ))
