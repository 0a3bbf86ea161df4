"""When a run says that it leaves steps out."""

import logging

from clmr_tf.loop.skipped_steps import SkippedSteps


def told(caplog, skipped: SkippedSteps, numbers: dict[int, int]) -> list[int]:
    """The numbers of skipped steps, by steps done, at which something was said."""
    found = []
    for step, num_skipped in numbers.items():
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            skipped.observe(step, num_skipped)
        assert len(caplog.records) <= 1
        found += [num_skipped] * len(caplog.records)
    return found


def test_it_is_said_once_for_each_doubling(caplog):
    every_second = {step: step // 2 for step in range(1, 300)}
    assert told(caplog, SkippedSteps(0, 0), every_second) == [1, 2, 4, 8, 16, 32, 64, 128]
    # One that resumes has said it before.
    later = {step: step // 2 for step in range(300, 700)}
    assert told(caplog, SkippedSteps(299, 149), later) == [298]


def test_many_at_once_are_said_when_they_begin(caplog):
    few = {step: 1000 + (step - 100_000) // 10 for step in range(100_010, 100_100, 10)}
    assert told(caplog, SkippedSteps(100_000, 1000), few) == []
    all_of_them = {step: 1009 + step - 100_090 for step in range(100_100, 100_200, 10)}
    again = {100_200: 1109, 100_220: 1112, 100_230: 1115}
    assert told(caplog, SkippedSteps(100_090, 1009), all_of_them | again) == [1019, 1112]


def test_it_says_how_many_of_how_many(caplog):
    with caplog.at_level(logging.WARNING):
        SkippedSteps(20, 3).observe(30, 6)
    assert caplog.text.count("6 steps were left out since the run began, 3 of the last 10, because") == 1


def test_a_run_without_them_says_nothing(caplog):
    assert told(caplog, SkippedSteps(0, 0), dict.fromkeys(range(1, 100), 0)) == []
