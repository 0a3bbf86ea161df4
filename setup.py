"""Installs clmr_tf, its pipelines and its recipes; `requirements.txt` holds the versions that are tested."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "clmr_tf" / "__init__.py").read_text(encoding="utf-8"), re.M)[1]

setup(
    name="clmr_tf",
    version=VERSION,
    description="Contrastive Learning of Musical Representations in Keras and TensorFlow",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls={"Paper": "https://arxiv.org/abs/2103.09410"},
    keywords=["music", "audio", "representation learning", "self-supervised", "contrastive", "TensorFlow"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.15",
    packages=["recipes", "clmr_tf.included_model", *find_packages(include=["clmr_tf*", "pipelines*"])],
    # A checkout has it only once, with files for TensorFlow.
    package_dir={"clmr_tf.included_model": "savedmodels/music-small"},
    package_data={
        "clmr_tf": ["py.typed"],
        "clmr_tf.browse": ["page/*"],
        "clmr_tf.included_model": ["*.md", "manifest.json", "golden.npz", "head.npz", "*.tflite"],
        "clmr_tf.export": ["web_page/*"],
        "pipelines": ["*.csv"],
        "pipelines.accompaniments": ["*.csv"],
        "pipelines.demo_data": ["*.csv", "*.md", "audio/*/*.ogg"],
        "recipes": ["*.yaml"],
    },
    entry_points={"console_scripts": ["clmr-tf=clmr_tf.__main__:run"]},
    # Enough to embed, tag and search with LiteRT.
    install_requires=[
        "numpy>=1.26",
        "ai-edge-litert>=2.3",
        "av>=18,<20",
        "soxr>=0.5",
        # Above 22, it does not support NumPy 1.26, which TensorFlow 2.17 needs.
        'pyarrow>=15,<23; python_version < "3.13"',
        'pyarrow>=18; python_version >= "3.13"',
        "rich>=14",
        "tyro>=1.0.10",
        "PyYAML>=6",
        "filelock>=3.16",
    ],
    extras_require={
        "train": [
            "tensorflow>=2.17.1,<2.22",
            "keras>=3.15.1,<3.16",
            "tensorboard>=2.17",
            "soundfile>=0.13",
            "scikit-learn>=1.5",
            "matplotlib>=3.9",
            "safetensors>=0.5",
        ],
        # Run model.onnx.
        "onnx": ["onnxruntime>=1.20"],
        # --reader direct inside the graph; it cannot be loaded into a newer TensorFlow, and Python 3.13 has neither.
        "direct": ['tensorflow-io==0.37.1; python_version < "3.13"', 'tensorflow==2.17.1; python_version < "3.13"'],
        # The library page, and teaching of tags.
        "browse": ["scikit-learn>=1.5", "starlette>=1", "uvicorn>=0.35"],
        # --cluster; all nodes of a Ray cluster need the same version.
        "cluster": ["ray==2.60.0"],
        # An approximate index of more than a million songs.
        "index": ["usearch>=2.26"],
        # Write and run other model formats; a newer onnx needs a newer ml_dtypes than TensorFlow 2.17 allows.
        "runtimes": [
            "onnxruntime>=1.20",
            'onnx>=1.17,<1.19; python_version < "3.13"',
            'onnx>=1.19; python_version >= "3.13"',
            "tf2onnx>=1.17",
        ],
        # For `pytest` and `ruff` in a checkout; requirements-test.txt has everything that the tests use.
        "dev": [
            "pytest>=9",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "import-linter>=2.17",
            "mypy>=2.4",
            "scipy>=1.14",
            "psutil>=7",
            "coverage>=7.10",
            "pdoc>=16",
        ],
    },
)
