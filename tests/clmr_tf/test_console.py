"""How commands report errors and log messages."""

import errno
import io
import logging
import os
import signal
import time

import keras
import pytest
import tensorflow as tf
from rich.console import Console

from clmr_tf import console
from clmr_tf.console import progress_bar, run_command
from clmr_tf.errors import ClmrError, UsageError


def raising(error):
    def command(_arguments):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("No such corpus."), 2, "No such corpus."),
        (ClmrError("The loss is NaN."), 1, "The loss is NaN."),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (OSError(errno.ENOSPC, "No space left on device", "x.pcm"), 1, "The disk is full (x.pcm)"),
        (OSError(errno.EACCES, "Permission denied", "x.pcm"), 1, "Permission denied (x.pcm)"),
        (RuntimeError("x.tempstate1; No space left on device [Op:SaveV2]"), 1, "The disk is full;"),
        (RuntimeError("first line\nsecond line"), 1, "Unexpected RuntimeError: first line (--debug"),
        (RuntimeError("Graph execution error:\n\nplace\nThe reason."), 1, "RuntimeError: The reason. (--debug"),
        (RuntimeError("no reason:"), 1, "Unexpected RuntimeError: no reason: (--debug"),
    ],
)
def test_error_is_one_sentence_with_an_exit_code(capsys, error, code, words):
    assert run_command(raising(error), []) == code
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err and captured.out == ""


class FailingLayer(keras.layers.Layer):
    """A layer whose call fails."""

    def call(self, inputs):
        raise TypeError("The inputs are wrong.")


@pytest.mark.parametrize("wrap", [lambda call: call, tf.function], ids=["eager", "AutoGraph"])
def test_reason_is_extracted_from_library_messages(capsys, wrap):
    """Keras appends the arguments to the reason, AutoGraph puts the location before it."""
    layer = FailingLayer()
    assert run_command(lambda _: wrap(lambda inputs: 2 * layer(inputs))(tf.zeros([2])), []) == 1
    assert capsys.readouterr().err == ("error: Unexpected TypeError: The inputs are wrong. (--debug shows where).\n")


@pytest.mark.parametrize("caught", [Exception, BaseException])
def test_sigterm_is_reported_if_a_library_replaces_the_exception(capsys, caught):
    """AutoGraph replaces exceptions of the functions that it converts."""

    def command(_arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except caught as error:
            raise RuntimeError("in user code") from error

    assert run_command(command, []) == 143
    assert capsys.readouterr().err == "error: Terminated.\n"


def test_debug_shows_the_traceback(capsys):
    assert run_command(raising(ClmrError("Broken.")), ["--debug"]) == 1
    captured = capsys.readouterr().err
    assert "Traceback" in captured and "Broken." in captured


def test_successful_command_receives_its_arguments_and_returns_0():
    received = []
    assert run_command(received.extend, ["--steps", "3"]) == 0
    assert received == ["--steps", "3"]


def test_exit_code_of_system_exit_is_kept():
    with pytest.raises(SystemExit) as caught:
        run_command(raising(SystemExit(2)), [])
    assert caught.value.code == 2


def test_markup_in_an_error_is_printed_literally(capsys):
    run_command(raising(ClmrError("Bad file [red]a[/b].wav")), [])
    assert "Bad file [red]a[/b].wav" in capsys.readouterr().err


def test_only_warnings_and_info_of_the_package_are_shown(capsys):
    def command(_arguments):
        logging.getLogger("clmr_tf.anything").warning("Only %d parts", 3)
        logging.getLogger("clmr_tf.anything").info("Training on [2] cores")
        logging.getLogger("clmr_tf.anything").debug("Details")
        logging.getLogger("another").info("Other details")

    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        run_command(command, [])
    finally:
        root.handlers = before
    assert capsys.readouterr().err == "warning: Only 3 parts\nTraining on [2] cores\n"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_terminals_only(monkeypatch, is_terminal):
    written = io.StringIO()
    # On a dumb terminal, no bar is drawn.
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(console, "stderr", Console(file=written, force_terminal=is_terminal, width=100))
    with progress_bar() as bar:
        bar.update(bar.add_task("[embedding] files", total=4), completed=3)
    assert ("[embedding] files" in written.getvalue() and "3/4" in written.getvalue()) == is_terminal
    assert is_terminal or written.getvalue() == ""
