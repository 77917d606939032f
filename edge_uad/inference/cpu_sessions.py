"""What every session of ONNX Runtime on the CPU has in common: how its threads wait."""

import onnxruntime as ort

SPINNING = "session.intra_op.allow_spinning"
SPIN_DURATION = "session.intra_op.spin_duration_us"
STOP_AFTER_RUN = "session.force_spinning_stop"
SPIN_US = 10
"""How long a thread without work looks for more before it sleeps: the least that spares it five of six sleeps.

Where waking a thread is cheap that wins nothing and loses nothing; beside a busy program it costs an inference 5 %, no
bound at all 40 % (python -m benchmarks.sessions, two cores of an EPYC: medians 91, 93 and 91 ms alone for this, for
sleeping at once and for spinning without a bound, 136, 129 and 178 beside the program).
"""
_BOUNDED_SINCE = (1, 26)
"""The first version of ONNX Runtime that bounds it."""


def cpu_session_options(threads: int, *, version: str = ort.__version__) -> ort.SessionOptions:
    """Options with so many threads, 0 for one per core.

    One inference is some hundred loops that its threads share, a few microseconds apart. A thread that sleeps in
    between must be woken by the kernel each time; one that spins without a bound takes the core from other programs,
    and from the very thread that it waits for. So they spin for a moment, and not beyond the end of a run (python -m
    benchmarks.sessions); where ONNX Runtime is too old to bound it, they sleep at once.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    bounded = tuple(int(part) for part in version.split(".")[:2]) >= _BOUNDED_SINCE
    options.add_session_config_entry(SPINNING, "1" if bounded else "0")
    if bounded:
        options.add_session_config_entry(SPIN_DURATION, str(SPIN_US))
        options.add_session_config_entry(STOP_AFTER_RUN, "1")
    return options
