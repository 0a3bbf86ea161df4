# The two main commands are `make train` and `make test`. Everything they need is installed into .venv.

# The Python to create .venv with, such as `make PYTHON=/opt/python3.12/bin/python train`; if empty, the newest usable one.
PYTHON ?=
VENV := .venv
LATEST := .venv-latest
TORCH := .venv-torch
INFERENCE := .venv-inference
RUN := $(VENV)/bin/python
PIP := -m pip install --disable-pip-version-check --quiet
TWO_PROCESSES := -n 2 --dist loadfile --no-loadscope-reorder

DEMO_RUN := runs/demo-run
DEMO_MODEL := savedmodels/demo-run
DEMO_SONG := pipelines/demo_data/audio/marine/industrial.ogg

# Python versions that TensorFlow has releases for.
USABLE := 3.11|3.12|3.13
# The tests that run without TensorFlow.
INFERENCE_TESTS := $(addprefix tests/clmr_tf/,audio/test_decoding.py audio/test_downmix.py audio/test_listing.py \
    browse/test_similar_songs.py config/test_command_line.py config/test_model_option.py inference/test_included_model.py \
    inference/test_shards.py)

# Test files or folders for `make test-latest` and `make coverage`; all if empty.
TESTS ?=

.PHONY: train small-model test test-latest test-torch test-inference coverage soak lint format docs figures bench gpu-check help

help:
	@echo "make train         train on the demo corpus, export, probe (about 15 minutes on two cores)"
	@echo "make small-model   the pretrained model in savedmodels/music-small (an hour on two cores)"
	@echo "make test          the tests, except those of make soak"
	@echo "make test-latest   the same with the newest TensorFlow, in a separate environment (TESTS=tests/... for a part)"
	@echo "make test-torch    compare with the original network in PyTorch, in a separate environment"
	@echo "make test-inference  the tests that need no TensorFlow, with what 'pip install .' installs, in a new environment"
	@echo "make coverage      branch coverage of numerics, readers and checkpoints; under 95 % fails"
	@echo "make soak          the long tests that make test leaves out"
	@echo "make lint          formatting and lint rules"
	@echo "make format        apply them"
	@echo "make docs          the API reference, build/reference/index.html"
	@echo "make figures       regenerate the pictures and tables of docs/"
	@echo "make bench         the benchmarks of one machine, one JSON object each; benchmarks/ has others"
	@echo "make gpu-check     compare a GPU with the CPU number by number, and time it"

train: $(VENV)/run-requirements
	$(RUN) -m clmr_tf.train --corpus demo --width 0.25 --steps 300 --log-every 5 --checkpoint-every 100 --workdir $(DEMO_RUN)
	$(RUN) -m clmr_tf.export --model $(DEMO_RUN) --out $(DEMO_MODEL) --overwrite
	$(RUN) -m clmr_tf.probe --model $(DEMO_MODEL) --corpus demo
	$(RUN) -m clmr_tf.probe --model $(DEMO_MODEL) --corpus demo --preset retrieval
	@echo
	@echo "Next:"
	@echo "  $(RUN) -m clmr_tf.tag $(DEMO_SONG)   # with the included model"
	@echo "  $(VENV)/bin/tensorboard --logdir $(DEMO_RUN)"
	@echo "  $(RUN) -m clmr_tf.train --corpus ~/Music --workdir runs/mine"
	@echo "  $(RUN) -c \"import clmr_tf; print(clmr_tf.load_encoder('$(DEMO_MODEL)').embed('$(DEMO_SONG)'))\""

# The included pretrained model; stopped at any moment, the same command continues. Only recordings whose licences allow
# the weights to be shared.
SMALL_CORPUS := corpora/debian_games-free
SMALL_MODEL := savedmodels/music-small
SMALL_PROBE := $(RUN) -m clmr_tf.probe --model $(SMALL_MODEL) --corpus $(SMALL_CORPUS)
small-model: $(VENV)/test-requirements
	$(RUN) -m pipelines.debian_games --set medium --licences CC-BY-3.0 CC-BY-SA-3.0 MIT public-domain --out $(SMALL_CORPUS)
	$(RUN) -m pipelines.pseudo_tags --corpus $(SMALL_CORPUS)
	$(RUN) -m clmr_tf.train --corpus $(SMALL_CORPUS) --encoder mel_cnn --width 0.25 --batch-size 64 --steps 1200 \
	    --learning-rate 0.001 --schedule cosine --warmup-steps 60 --temperature 0.1 --checkpoint-every 100 \
	    --embeddings-every 0 --workdir runs/music-small
	$(RUN) -m clmr_tf.export --model runs/music-small --out $(SMALL_MODEL) --overwrite --licence CC-BY-SA-3.0
	for task in pseudo-tags soundtrack artist; do \
	    $(SMALL_PROBE) --task $$task --features mel --out runs/music-small/mel-$$task.json && \
	    $(SMALL_PROBE) --task $$task --features pipelines.musicnn:MusicnnFeatures --out runs/music-small/musicnn-$$task.json && \
	    $(SMALL_PROBE) --task $$task --out $(SMALL_MODEL)/evaluation-$$task.json \
	        --compare runs/music-small/mel-$$task.json runs/music-small/musicnn-$$task.json || exit 1; \
	done
	$(SMALL_PROBE) --preset retrieval --features pipelines.musicnn:MusicnnFeatures \
	    --out runs/music-small/musicnn-retrieval.json
	$(SMALL_PROBE) --preset retrieval --compare runs/music-small/musicnn-retrieval.json
	$(RUN) -m clmr_tf.export --model $(SMALL_MODEL) --head $(SMALL_MODEL)/evaluation-pseudo-tags.json --tflite fp32,int8

# Two processes: most of a test's time is spent building graphs, which uses one core. Files run in the order that
# tests/conftest.py sets.
test: $(VENV)/test-requirements
	$(RUN) -m pytest $(TWO_PROCESSES)

# On Python 3.11 and 3.12, requirements.txt has an older TensorFlow, because tensorflow-io needs it.
test-latest: $(LATEST)/test-requirements
	$(LATEST)/bin/python -m pytest $(TWO_PROCESSES) $(TESTS)

# Compares with PyTorch itself what the suite compares with recorded numbers of PyTorch.
test-torch: $(TORCH)/test-requirements
	$(TORCH)/bin/python -m pytest tests/golden tests/clmr_tf/convert

# More kills than in the suite, and all tests that are marked as long.
soak: $(VENV)/test-requirements
	CLMR_TF_NUM_KILLS=20 $(RUN) -m pytest -m "" tests/clmr_tf/train/test_training_killed.py
	$(RUN) -m pytest $(TWO_PROCESSES) -m soak --ignore tests/clmr_tf/train/test_training_killed.py

# Installed anew each time, since the versions are not pinned: this is what users get. Python 3.14 works too.
test-inference: $(INFERENCE)/bin/pip
	$(INFERENCE)/bin/python $(PIP) '.[onnx]' pytest soundfile
	du -sm $(INFERENCE)
	$(INFERENCE)/bin/python -m pytest $(INFERENCE_TESTS)

# pyproject.toml names the modules that must be covered.
coverage: $(VENV)/test-requirements
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest $(TWO_PROCESSES) $(TESTS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

lint: $(VENV)/test-requirements
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/mypy

format: $(VENV)/test-requirements
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(VENV)/test-requirements
	$(RUN) -m docs.reference

figures: $(VENV)/test-requirements
	$(RUN) -m docs.make
	$(RUN) -m docs.augmentations
	$(RUN) -m docs.recipes

bench: $(VENV)/run-requirements
	$(RUN) -m benchmarks.clips
	$(RUN) -m benchmarks.decode
	$(RUN) -m benchmarks.direct_reader
	$(RUN) -m benchmarks.augment
	$(RUN) -m benchmarks.train_step
	$(RUN) -m benchmarks.embed
	$(RUN) -m benchmarks.encoders --speed
	$(RUN) -m benchmarks.similar

gpu-check: $(VENV)/run-requirements
	$(RUN) -m benchmarks.gpu_check

# Each stamp file is created once its packages are installed; an interrupted installation is resumed.
$(VENV)/run-requirements: requirements.txt constraints.txt | $(VENV)/bin/pip
	$(RUN) $(PIP) -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/test-requirements: requirements-test.txt requirements.txt constraints.txt | $(VENV)/bin/pip
	$(RUN) $(PIP) -r requirements-test.txt -c constraints.txt
	@touch $@ $(VENV)/run-requirements

# Leaves out the lines of constraints.txt that depend on the Python version.
$(LATEST)/test-requirements: requirements-latest.txt constraints.txt | $(LATEST)/bin/pip
	grep -v ';' constraints.txt > $(LATEST)/constraints.txt
	$(LATEST)/bin/python $(PIP) -r requirements-latest.txt -c $(LATEST)/constraints.txt
	@touch $@

$(TORCH)/test-requirements: requirements-torch.txt requirements.txt constraints.txt | $(TORCH)/bin/pip
	$(TORCH)/bin/python $(PIP) -r requirements-torch.txt -c constraints.txt
	@touch $@

# pyenv and others install commands that exist but do not run, and Debian has Pythons without the venv module.
$(INFERENCE)/bin/pip: USABLE := 3.11|3.12|3.13|3.14
$(VENV)/bin/pip $(LATEST)/bin/pip $(TORCH)/bin/pip $(INFERENCE)/bin/pip:
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	    case "$$version" in \
	        $(USABLE)) ;; \
	        *) unusable="Python $$version"; continue ;; \
	    esac; \
	    if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	        "$$python" -m venv $(@:/bin/pip=) && exit 0; rm -rf $(@:/bin/pip=); exit 2; \
	    fi; \
	    without_venv="$${without_venv:-$$version}"; \
	done; \
	if [ -n "$$without_venv" ]; then \
	    echo "error: Python $$without_venv has no venv module here; run: apt-get install python$$without_venv-venv" >&2; \
	else \
	    echo "error: Python 3.11, 3.12 or 3.13 is needed and $${unusable:-no Python} was found; get one from" \
	        "your distribution, python.org or with 'uv python install 3.13', and give make its path as PYTHON=" >&2; \
	fi; exit 2
