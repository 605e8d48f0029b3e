"""Listeners get the messages of the time in which they listen, independent of each other."""

from __future__ import annotations

from fake_gpu import FakeGpu
from fake_tensorrt import FakeTensorRt

from samclip.engines.plans.build_log import listening, shared_logger


def test_the_end_of_one_listener_is_not_that_of_another() -> None:
    """Both have heard nothing until then, and so are alike."""
    module = FakeTensorRt(FakeGpu())
    logger = shared_logger(module)
    with listening() as first:
        with listening() as second:
            pass
        logger.log(
            module.ILogger.Severity.ERROR,
            "[localCheckMacros.cpp::getErrorStr::132] Error Code 2: OutOfMemory\n(Requested 9)",
        )
    logger.log(module.ILogger.Severity.ERROR, "later")
    assert (first.errors, second.errors) == (["Error Code 2: OutOfMemory (Requested 9)"], [])
