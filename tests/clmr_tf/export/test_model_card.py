"""The model card says what the manifest says."""

import numpy as np
import yaml

from clmr_tf.config.command_line import to_json
from clmr_tf.config.train import TrainConfig
from clmr_tf.export.model_card import model_card

GOLDEN = np.zeros((2, 512), np.float32)
GOLDEN[0, [7, 300]] = 1.25, 0.5

RUN = {
    "corpus": {
        "name": "songs",
        "fingerprint": "abc123",
        "description": "songs of two authors; licences: 3 CC-BY-4.0",
        "num_items": {"train": 40, "test": 9},
        "num_songs": {"train": 20, "test": 9},
        "hours": {"train": 1.5, "test": 0.25},
    },
    "starts": [
        {
            "versions": {"clmr_tf": "0.1.0", "tensorflow": "2.17.1", "keras": "3.15.1"},
            "git_revision": "0123456789ab",
            "hardware": {"num_cpus": 2, "gpus": []},
        }
    ],
}


def card_of(**changes) -> str:
    manifest = {
        "name": "mine",
        "licence": "CC-BY-4.0",
        "tag_names": [],
        "single_label": False,
        "scores": {},
        "architecture": {"class": "SampleCNN", "arguments": {"width": 0.5}},
        "input": {"name": "audio", "clip_num_samples": 59049, "sample_rate_hz": 22050, "channels": 1},
        "output": {"name": "embedding", "dimensions": 512},
        "training": {"step": 3},
    }
    return model_card({**manifest, **changes}, GOLDEN)


def trained(**settings) -> dict:
    config = TrainConfig(**settings).resolved()
    return {"step": 1234, "config": to_json(config), "run": RUN}


def metadata_of(card: str) -> dict:
    start, metadata, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(metadata)


def test_the_metadata_header_for_model_hubs():
    metadata = metadata_of(card_of(training=trained()))
    assert metadata["license"] == "cc-by-4.0" and metadata["library_name"] == "clmr_tf"
    assert {"music", "contrastive-learning"} <= set(metadata["tags"])
    assert metadata_of(card_of(licence="unspecified"))["license"] == "unknown"
    assert "contrastive-learning" not in metadata_of(card_of(training=trained(objective="supervised")))["tags"]
    assert metadata_of(card_of(licence='my "own": terms'))["license"] == 'my "own": terms'


def test_it_names_the_music_and_its_licences():
    card = card_of(training=trained())
    assert "train split of the corpus songs" in card and "licences: 3 CC-BY-4.0" in card
    assert "| train | 40 | 20 | 1.50 |" in card and "| test | 9 | 9 | 0.25 |" in card
    assert "Trained on 20 songs of one corpus" in card


def test_it_names_the_settings_that_are_not_the_defaults_and_no_folder():
    card = card_of(training=trained(batch_size=32, temperature=0.1, workdir="/home/me/runs/mine"))
    assert "1,234 steps of 32 examples with the objective `contrastive`, seed 42" in card
    assert "`--temperature 0.1`" in card and "--optimizer" not in card and "/home/me" not in card
    assert "revision 0123456789ab" in card and "2 CPUs and no GPU" in card
    assert "Every other setting is the default" in card_of(training=trained(batch_size=TrainConfig().batch_size))
    assert "--dropout" not in card_of(training=trained(objective="supervised"))
    of_earlier_version = trained()
    of_earlier_version["config"]["on_failed_save"] = "stop"
    assert "on-failed-save" not in card_of(training=of_earlier_version)


def test_a_converted_model_names_its_checkpoint():
    origin = {"checkpoint": {"file": "clmr.ckpt", "sha256": "f0"}, "layout": "encoder.sequential.*"}
    card = card_of(training={"step": 0, "converted_from": origin}, tag_names=["guitar", "slow"])
    assert "| checkpoint | clmr.ckpt | `f0` |" in card and "## Data" not in card and "| tags | guitar, slow |" in card
    assert "[the code of the paper](https://github.com/Spijkervet/CLMR)" in card and "see there" not in card
    assert "The keys are `encoder.sequential.*`. The checkpoint records nothing about training." in card
    assert "written by `python -m clmr_tf.convert`" in card and "clmr_tf.export" not in card
    origin |= {"head": {"file": "finetuner.pt", "sha256": "a1"}, "epoch": 3, "global_step": 12}
    card = card_of(training={"step": 12, "converted_from": origin})
    assert "| head | finetuner.pt | `a1` |" in card and "The checkpoint records: epoch 3, step 12." in card
    assert "written by `python -m clmr_tf.export`" in card_of(training=trained())


def test_an_added_head_has_its_origin_and_scores():
    of_tags = {"over_tags": {"mean": 0.8126, "interval": [0.7, 0.9]}}
    head = {
        "corpus": {"name": "songs", "fingerprint": "abc123"},
        "preset": "thesis",
        "task": {"name": "moods", "fingerprint": "d4"},
        "protocol": {"head": {"hidden_units": 512}},
        "labels": {"num_songs": 14, "num_clips": 28},
        "seed": 42,
        "test": {"num_songs": 10, "num_clips": 20, "accuracy": {"mean": 0.75, "interval": None}, "roc_auc": of_tags},
    }
    section = card_of(head=head).partition("## Tag head\n")[2].partition("##")[0]
    assert "preset `thesis`, one hidden layer of 512, seed 42, with the labels of 28 clips of 14 songs" in section
    assert "of the corpus songs (fingerprint `abc123`), task moods. On the 20 clips of 10 songs" in section
    assert "| accuracy | 0.750 |  |" in section and "| ROC-AUC over tags | 0.813 | 0.700 to 0.900 |" in section
    linear = card_of(head={**head, "protocol": {"head": {"hidden_units": 0}}})
    assert "preset `thesis`, linear, seed 42" in linear
    task = {**head["task"], "description": "As a network predicts them; nobody tagged them."}
    described = card_of(head={**head, "task": task})
    assert "task moods. Its description: As a network predicts them; nobody tagged them. On the 20 clips" in described
    assert "Tag head" not in card_of()


def test_limits_have_the_tag_error_of_a_file():
    metadata = {"checked_with": "ai-edge-litert 2.3.0", "outputs": ["embedding", "tags"], "least_cosine": 0.99999}
    runtimes = {
        "model.tflite": {**metadata, "largest_tag_error": 2e-7},
        "model-int8.tflite": {**metadata, "largest_tag_error": 0.00951},
    }
    limits = card_of(tag_names=["slow"], runtimes=runtimes).partition("## Limits")[2].partition("##")[0]
    assert "The tag probabilities of `model-int8.tflite` differ from the encoder's by up to 0.0095" in limits
    assert "model.tflite" not in limits


def test_it_has_the_speed_of_the_files():
    metadata = {"outputs": ["embedding"], "processor_seconds": 0.0134}
    speed = card_of(runtimes={"model.onnx": metadata}).partition("## Speed")[2].partition("##")[0]
    # A window of 2.678 s in 13.4 ms.
    assert "| `model.onnx` | 13 ms | 200 |" in speed
    assert "## Speed" not in card_of(runtimes={"model.onnx": {"outputs": ["embedding"]}})


def test_scores_of_all_probes_are_in_one_table():
    accuracy = {"metric": "accuracy", "split": "test", "mean": 0.636, "interval": [0.43, 0.803]}
    head = {"metric": "macro average precision", "split": "test", "mean": 0.3412, "interval": [0.3, 0.38]}
    differences = {
        "untrained": {"mean": 0.05, "interval": [0.01, 0.09]},
        "mel": {"mean": -0.2, "interval": [-0.3, 0.1]},
    }
    musicnn = {"musicnn": differences["mel"]}
    standard = {**head, "differences": differences}
    card = card_of(scores={"demo": accuracy, "songs-released-linear": head, "songs-standard-linear": standard})
    assert "| demo | test | accuracy | 0.636 | 0.430 to 0.803 |  |" in card
    line = "test | macro average precision | 0.341 | 0.300 to 0.380 |"
    assert f"| songs-released-linear | {line}  |" in card
    shown = "untrained +0.050 (+0.010 to +0.090), mel -0.200 (-0.300 to +0.100)"
    assert f"| songs-standard-linear | {line} {shown} |" in card
    # Only names that occur are explained.
    assert "MagnaTagATune" not in card
    assert "*musicnn* the features of a network trained" in card_of(scores={"a": {**head, "differences": musicnn}})


def test_it_shows_the_largest_golden_numbers_first():
    rows = card_of().partition("## Golden numbers")[2].splitlines()
    assert rows[5:7] == ["| 7 | 1.25 |", "| 300 | 0.5 |"]


def test_it_shows_how_to_load_only_what_is_there():
    metadata = {
        "checked_with": "ai-edge-litert 2.3.0",
        "outputs": ["embedding"],
        "largest_error": 0.03,
        "least_cosine": 0.9981,
    }
    card = card_of(runtimes={"model-int8.tflite": metadata})
    assert 'Interpreter("model-int8.tflite")' in card and "0.9981" in card and "onnxruntime" not in card
    assert "ai_edge_litert" not in card_of()


def test_it_shows_the_tags_of_the_files_that_give_them():
    metadata = {"outputs": ["embedding", "tags"]}
    tagged = {"tag_names": ["guitar", "slow"], "runtimes": {"model-fp16.tflite": metadata, "model.onnx": metadata}}
    code = card_of(**tagged).partition("## How to load it")[2]
    assert 'tags = outputs["tags"]' in code and 'ZipFile("model-fp16.tflite").read("tag_names.json")' in code
    assert '[embedding, tags] = session.run(["embedding", "tags"], {"audio": golden["audio"]})' in code
    assert code.count("tags [n, 2] are probabilities") == 2 and "<= 5e-3 * np.abs" in code
    # Files that could not be made again with a new head have no tags, whatever the model has.
    facts = {"outputs": ["embedding"]}
    other = {"model-int8.tflite": facts, "model.onnx": facts}
    code = card_of(tag_names=["guitar", "slow"], runtimes=other).partition("## How to load it")[2]
    assert "tags" not in code and '[embedding] = session.run(["embedding"], {"audio": golden["audio"]})' in code
