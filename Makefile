# The two commands of the project: `make train` and `make test`. Everything they need goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --disable-pip-version-check --quiet

DEMO_RUN := runs/demo-run
DEMO_MODEL := savedmodels/demo-run
DEMO_SONG := pipelines/demo_data/audio/marine/industrial.ogg

.PHONY: train demo-model test soak lint format docs bench help

help:
	@echo "make train         train on the demo corpus, export, probe (under 10 minutes on two cores)"
	@echo "make demo-model    the pretrained model in savedmodels/demo (half an hour on two cores)"
	@echo "make test          the whole test suite"
	@echo "make soak          the longer versions of tests that kill and compare runs"
	@echo "make lint          formatting and lint rules"
	@echo "make format        apply them"
	@echo "make docs          make the pictures and tables of docs/ again"
	@echo "make bench         run all benchmarks, one JSON object each"

train: $(VENV)/run-requirements
	$(RUN) -m clmr_tf.train --corpus demo --width 0.25 --steps 300 --log-every 5 --checkpoint-every 100 --workdir $(DEMO_RUN)
	$(RUN) -m clmr_tf.export --model $(DEMO_RUN) --out $(DEMO_MODEL) --overwrite
	$(RUN) -m clmr_tf.probe --model $(DEMO_MODEL) --corpus demo
	@echo
	@echo "Next:"
	@echo "  $(RUN) -m clmr_tf.tag $(DEMO_SONG)   # by the model that comes with the code"
	@echo "  $(VENV)/bin/tensorboard --logdir $(DEMO_RUN)"
	@echo "  $(RUN) -m clmr_tf.train --corpus ~/Music --workdir runs/mine"
	@echo "  $(RUN) -c \"import clmr_tf; print(clmr_tf.load_encoder('$(DEMO_MODEL)').embed('$(DEMO_SONG)'))\""

# The pretrained model that comes with the code; an export over it takes the probes of other weights away.
demo-model: $(VENV)/test-requirements
	$(RUN) -m clmr_tf.train --corpus demo --width 0.25 --steps 2000 --learning-rate 0.0003 --precision mixed_bfloat16 \
	    --checkpoint-every 250 --workdir runs/demo
	$(RUN) -m clmr_tf.export --model runs/demo --out savedmodels/demo --overwrite --licence CC-BY-SA-3.0
	$(RUN) -m clmr_tf.probe --model savedmodels/demo --corpus demo
	$(RUN) -m clmr_tf.probe --model savedmodels/demo --corpus demo --preset thesis --out savedmodels/demo/evaluation-demo.json
	$(RUN) -m clmr_tf.export --model savedmodels/demo --head savedmodels/demo/evaluation-demo.json --tflite int8

# Two processes: most of a test's time is building graphs, which is done on one core. They take the files in the order
# of tests/conftest.py.
test: $(VENV)/test-requirements
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# More kills than in the suite, and everything that is marked as long.
soak: $(VENV)/test-requirements
	CLMR_TF_NUM_KILLS=20,20 $(RUN) -m pytest -m "" tests/clmr_tf/test_training_killed.py tests/clmr_tf/test_replicas.py \
	    tests/clmr_tf/test_workers.py tests/clmr_tf/test_recipes.py tests/benchmarks

lint: $(VENV)/test-requirements
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/test-requirements
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(VENV)/test-requirements
	$(RUN) -m docs.make
	$(RUN) -m docs.augmentations
	$(RUN) -m docs.recipes

bench: $(VENV)/run-requirements
	$(RUN) -m benchmarks.clips
	$(RUN) -m benchmarks.direct_reader
	$(RUN) -m benchmarks.augment
	$(RUN) -m benchmarks.train_step
	$(RUN) -m benchmarks.embed
	$(RUN) -m benchmarks.similar

# Each stamp is made once its packages are installed; an interrupted installation is taken up again.
$(VENV)/run-requirements: requirements.txt constraints.txt | $(VENV)/bin/pip
	$(PIP) -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/test-requirements: requirements-test.txt requirements.txt constraints.txt | $(VENV)/bin/pip
	$(PIP) -r requirements-test.txt -c constraints.txt
	@touch $@ $(VENV)/run-requirements

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
	    echo "error: Python 3.11 or 3.12 is needed, $(PYTHON) is another; run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "error: Python's venv module is missing; run: apt-get install python3-venv" >&2; exit 2; }
