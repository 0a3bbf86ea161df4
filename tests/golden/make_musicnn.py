"""Makes reference_musicnn.npz: what the package musicnn itself computes, for tests/pipelines/test_musicnn.py.

    python -m venv other && other/bin/pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0 librosa==0.11.0
    other/bin/pip install --no-deps musicnn==0.1.0
    TF_USE_LEGACY_KERAS=1 other/bin/python tests/golden/make_musicnn.py

It needs an environment of its own, since it takes TensorFlow 1's layers from tf-keras. "probabilities_of_noise" is
MTT_musicnn's graph with made-up weights, so that the test needs no download; "probabilities" is the model as it is.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import librosa
import musicnn.extractor
import numpy as np
import soundfile
import tensorflow as tf
from musicnn import models

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.pipelines.musicnn_inputs import music, noise_weights  # noqa: E402 - the package is not installed there


def probabilities_of_noise(log_mel: np.ndarray) -> tuple[np.ndarray, dict[str, tuple[int, ...]]]:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = tf.compat.v1.placeholder(tf.float32, [None, *log_mel.shape[1:]])
        logits = models.define_model(inputs, False, "MTT_musicnn", 50)[0]
        variables = {variable.name.removesuffix(":0"): variable for variable in tf.compat.v1.global_variables()}
        weights = noise_weights({name: tuple(variable.shape) for name, variable in variables.items()})
        for name, variable in variables.items():
            session.run(variable.assign(weights[name]))
        probabilities = session.run(tf.sigmoid(logits), {inputs: log_mel})
    return probabilities, {name: value.shape for name, value in weights.items()}


audio = music()
with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/music.wav"
    soundfile.write(path, audio, 16_000, subtype="FLOAT")
    # The package rounds to 16 bits before the logarithm, beyond whose range loud music goes.
    musicnn.extractor.np.float16 = np.float32
    probabilities = musicnn.extractor.extractor(path, model="MTT_musicnn", extract_features=False)[0]
mel = librosa.feature.melspectrogram(y=audio, sr=16_000, hop_length=256, n_fft=512, n_mels=96).T
patches = np.log10(10_000 * mel + 1)[: len(mel) // 187 * 187].reshape(-1, 187, 96).astype(np.float32)
of_noise, shapes = probabilities_of_noise(patches)
np.savez_compressed(
    HERE / "reference_musicnn.npz",
    log_mel=patches[:, ::17].astype(np.float32),
    probabilities=probabilities.astype(np.float32),
    probabilities_of_noise=of_noise,
    weight_names=np.array(sorted(shapes)),
    weight_shapes=np.array([",".join(map(str, shapes[name])) for name in sorted(shapes)]),
)
