"""A small corpus with labels, and quick settings of runs on it."""

from clmr_tf.config.train import TrainConfig
from tests.synthetic import synthetic_corpus

# Synthetic songs with the same tag have the same register.
TAGS = ("a", "b", "c", "d", "e")


def write_labelled_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "melodies"
    songs = {"train": 10, "valid": 5, "test": 10}
    return synthetic_corpus(folder, num_songs=songs, num_samples=130_000, tag_names=TAGS)


def config_of(corpus, workdir, **settings) -> TrainConfig:
    quick = {"width": 0.0625, "batch_size": 4, "num_validation_pairs": 8, "num_audio_examples": 0, "log_every": 1}
    quick |= {"objective": "supervised", "embeddings_every": 0, "validate_every": 1}
    return TrainConfig(**{"corpus": str(corpus.folder), "workdir": workdir, **quick, **settings})
