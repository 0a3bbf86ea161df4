"""Work in another thread, attended by one that hears signals."""

import threading
import time

import pytest

from clmr_tf.train.attendance import attended


def test_the_result_and_the_error_of_the_work_arrive():
    assert attended(lambda: 7, lambda: None) == 7
    with pytest.raises(ZeroDivisionError):
        attended(lambda: 1 / 0, lambda: None)


def test_somebody_is_at_hand_while_it_is_done():
    reports = []
    attended(lambda: time.sleep(1.3), lambda: reports.append(threading.current_thread()))
    assert len(reports) >= 3 and set(reports) == {threading.current_thread()}


def test_whoever_attends_can_leave_before_it_is_done():
    class LeftError(Exception):
        pass

    def leave() -> None:
        raise LeftError

    released = threading.Event()
    start = time.monotonic()
    with pytest.raises(LeftError):
        attended(lambda: released.wait(60), leave)
    released.set()
    assert time.monotonic() - start < 30
