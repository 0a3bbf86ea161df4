"""GTZAN in the fault-filtered split: 930 excerpts of 30 seconds, ten genres.

    python -m pipelines.gtzan --download

Split: 443 train, 197 valid, 290 test (Kereliuk, Sturm and Larsen 2015). Sturm (2013, https://arxiv.org/abs/1306.1461)
found that dozens of the 1,000 excerpts are duplicates or come from one recording, that others are broken or wrongly
labelled, and that random splits have the same artists on both sides. Scores on random splits are therefore far too
high. This split removes these faults and keeps each artist within one split.

Source: Tzanetakis and Cook 2002. The music is of unknown licence, so you need a copy (genres.tar.gz) that you may
use; --download fetches only the three lists, https://github.com/coreyker/dnn-mgr (gtzan).

Expected files, in data/gtzan or the folder given with --data:

    genres/blues/blues.00000.au ...             the unpacked archive; .wav also works
    train_filtered.txt, valid_filtered.txt,     the lists, with "blues/blues.00000.wav"
    test_filtered.txt                           and so on, one per line
"""

import re
import sys
from pathlib import Path

from clmr_tf.console import run_command
from clmr_tf.errors import UsageError
from pipelines.preparation.command import DownloadOptions
from pipelines.preparation.downloads import RemoteFile, fetch
from pipelines.preparation.published import DATA as ALL_DATA
from pipelines.preparation.published import PublishedCorpus, PublishedPipeline, require_files
from pipelines.preparation.sources import SourceFile, read_rows, require_split_counts

NAME = "gtzan"
CORPUS_NAME = "gtzan-fault-filtered"
DATA = ALL_DATA / NAME
AUDIO = "genres"
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
NUM_EXCERPTS = {"train": 443, "valid": 197, "test": 290}
LISTS = {split: f"{split}_filtered.txt" for split in NUM_EXCERPTS}
_HOST = "https://raw.githubusercontent.com/coreyker/dnn-mgr/bdad579ea6cb37b665ea6019fe1026a6ce20cbc7/gtzan/"
# From https://github.com/p-lambda/jukemir (jukemir/assets/gtzan.json).
_SHA256 = {
    "train": "2b04966cef1486f1a7767b74271533fa23e220388db804a1937835e1fc4fa3fa",
    "valid": "f8fbee7c52397a0e0f3a91dc54fedecb2e27f5bdc9a9daeab8cb10d077e26956",
    "test": "09cafa6a89ce0a27f30ed250d56ecb4d03c22fffb5a693f96c7ae655ee02ac72",
}


def read_corpus(options: DownloadOptions, data: Path) -> PublishedCorpus:
    """Downloads the files if the options say so, and reads what the published tables say about the corpus.

    Raises:
        UsageError: If a list is missing or is not the published one.
    """
    if options.download:
        for split, name in LISTS.items():
            fetch(RemoteFile(name, f"{_HOST}{name}", f"sha256:{_SHA256[split]}"), data)
    return PublishedCorpus(
        name=CORPUS_NAME,
        tag_names=GENRES,
        sources=read_sources(data),
        description="GTZAN (Tzanetakis and Cook 2002), lists of https://github.com/coreyker/dnn-mgr",
    )


def read_sources(data: Path) -> list[SourceFile]:
    """Reads the three lists; every excerpt is a song, and its genre its one tag.

    Raises:
        UsageError: If a list is missing or is not the published one.
    """
    require_files(data, LISTS.values(), f"pipelines.{NAME}")
    sources = [
        _source(data, " ".join(row), split, data / name)
        for split, name in LISTS.items()
        for row in read_rows(data / name, "\t")
    ]
    require_split_counts(f"The split {CORPUS_NAME}", sources, NUM_EXCERPTS)
    return sources


def _source(data: Path, line: str, split: str, where: Path) -> SourceFile:
    found = re.fullmatch(r"(([a-z]+)/\2\.\d{5})\.(wav|au)", line.strip())
    if not found or found[2] not in GENRES:
        raise UsageError(f"{where} has the line {line[:60]!r} instead of a name such as 'blues/blues.00000.wav'.")
    # The archive has .au, copies of it .wav.
    suffix = "au" if (data / AUDIO / f"{found[1]}.au").is_file() else "wav"
    source = f"{AUDIO}/{found[1]}.{suffix}"
    return SourceFile(data / source, found[1], found[1], source, split, (found[2],))


PIPELINE = PublishedPipeline(NAME, DATA, read_corpus, DownloadOptions, __doc__)
prepare_corpus, main = PIPELINE.prepare_corpus, PIPELINE.main

if __name__ == "__main__":
    sys.exit(run_command(main))
