"""Commands start without what Keras only wraps, and can import it all the same."""

import subprocess
import sys

COMMAND = """
import sys
from clmr_tf.console import run_command

def command(_arguments):
    import tensorflow, keras
    print(sorted({"keras", "matplotlib", "sklearn"} & set(sys.modules)))
    from importlib import resources
    print(resources.files("keras").joinpath("__init__.py").is_file())
    import matplotlib.pyplot, sklearn.metrics
    print(sklearn.metrics.roc_auc_score([0, 1], [0.25, 0.75]), matplotlib.pyplot.get_backend().lower())
    print(keras.ops.convert_to_numpy(keras.layers.Dense(1, kernel_initializer="ones")(keras.ops.ones((1, 3)))))

if PRELOADED:
    import matplotlib
assert run_command(command, []) == 0
"""


def outputs_of(code: str) -> list[str]:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_a_command_loads_keras_alone_and_the_rest_where_it_imports_it():
    lines = outputs_of(COMMAND.replace("PRELOADED", "False"))
    assert lines[0] == "['keras']"
    assert lines[1:] == ["True", "1.0 agg", "[[3.]]"]


def test_what_is_loaded_already_stays():
    lines = outputs_of(COMMAND.replace("PRELOADED", "True"))
    assert lines[0] == "['keras', 'matplotlib']"
    assert lines[1:] == ["True", "1.0 agg", "[[3.]]"]


def test_a_library_that_imports_ours_keeps_keras_with_its_wrappers():
    lines = outputs_of("import sys, clmr_tf.encoder; print('sklearn' in sys.modules)")
    assert lines == ["True"]
