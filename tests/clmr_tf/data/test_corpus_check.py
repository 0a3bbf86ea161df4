import dataclasses
import hashlib
import os

import numpy as np
import pytest

from clmr_tf.data.corpus import PCM_FILE, Corpus
from clmr_tf.data.resolution import require_unchanged_audio, resolve_corpus
from clmr_tf.errors import UsageError
from tests.synthetic import write_corpus

NUM_SAMPLES = 60_000


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return write_corpus(tmp_path / "songs", num_songs={"train": 6, "test": 2}, num_samples=NUM_SAMPLES)


def flip_a_bit(corpus: Corpus, item: int) -> None:
    pcm = np.memmap(corpus.folder / PCM_FILE, np.uint8, "r+")
    pcm[2 * (corpus.items[item].offset_samples + NUM_SAMPLES // 2)] ^= 1
    pcm.flush()


@pytest.mark.parametrize("item", range(8))
def test_a_flipped_bit_in_a_small_corpus_is_found_wherever_it_is_taken(corpus, item):
    require_unchanged_audio(corpus)
    flip_a_bit(corpus, item)
    words = f"The audio of {corpus.items[item].id} in .*songs has changed since it was prepared; prepare the music"
    with pytest.raises(UsageError, match=words):
        resolve_corpus(str(corpus.folder), corpora=corpus.folder, sample_rate_hz=22_050, clip_num_samples=59_049)


def test_of_a_large_corpus_a_part_from_both_ends_and_between_is_looked_at(corpus):
    three_items = 3 * 2 * (NUM_SAMPLES + 8)
    flip_a_bit(corpus, 1)
    require_unchanged_audio(corpus, num_bytes=three_items)
    for item in (0, 4, 7):
        flip_a_bit(corpus, item)
        with pytest.raises(UsageError, match=f"The audio of {corpus.items[item].id} "):
            require_unchanged_audio(corpus, num_bytes=three_items)
        flip_a_bit(corpus, item)


def test_the_files_of_a_direct_corpus_are_looked_at_too(corpus, tmp_path):
    file = tmp_path / "song.ogg"
    file.write_bytes(os.urandom(1000))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    manifest = dataclasses.replace(corpus.manifest, storage="direct")
    item = dataclasses.replace(corpus.items[0], file=str(file), digest=digest, source_num_bytes=1000)
    direct = Corpus(corpus.folder, manifest, (item,))
    require_unchanged_audio(direct)
    file.write_bytes(os.urandom(1000))
    with pytest.raises(UsageError, match="has changed since it was prepared"):
        require_unchanged_audio(direct)
    file.unlink()
    with pytest.raises(UsageError, match="has changed since it was prepared"):
        require_unchanged_audio(direct)
