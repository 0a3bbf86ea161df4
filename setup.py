"""Installs clmr_tf and its pipelines; `requirements.txt` holds the versions that are tested."""

from setuptools import find_packages, setup

setup(
    name="clmr_tf",
    version="0.1.0",
    description="Contrastive Learning of Musical Representations in Keras and TensorFlow",
    python_requires=">=3.11,<3.13",
    packages=["recipes", *find_packages(include=["clmr_tf*", "pipelines*"])],
    package_data={
        "clmr_tf.reporting": ["published.json"],
        "pipelines": ["*.csv"],
        "pipelines.demo_data": ["*.csv", "*.md", "audio/*/*.ogg"],
        "recipes": ["*.yaml"],
    },
    install_requires=[
        "tensorflow>=2.17.1,<2.22",
        "keras>=3.15.1,<3.16",
        "numpy>=1.26",
        "tensorboard>=2.17",
        "soundfile>=0.13",
        "soxr>=0.5",
        "scikit-learn>=1.5",
        "matplotlib>=3.9",
        "rich>=14",
        "tyro>=1.0.10",
        "PyYAML>=6",
    ],
    extras_require={
        # Decodes inside the graph (--reader direct); it cannot be loaded into a newer TensorFlow.
        "direct": ["tensorflow-io==0.37.1", "tensorflow==2.17.1"],
        # Decodes what libsndfile cannot read: AAC, M4A, WMA.
        "av": ["av>=14"],
        # Tables of embeddings as Parquet; a newer one wants NumPy 2.
        "parquet": ["pyarrow>=15,<23"],
        # Writes and runs the other forms of a model; a newer onnx wants a newer ml_dtypes than TensorFlow 2.17 has.
        "runtimes": ["ai-edge-litert>=2.3", "onnxruntime>=1.20", "onnx>=1.17,<1.19", "tf2onnx>=1.17"],
    },
)
