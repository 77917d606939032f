"""A call in a thread of its own: whoever waits for it can stop waiting, and hears its fault as if it had called."""

import threading

import pytest

from edge_uad.runtime.background import BackgroundCall


def test_its_result_is_the_calls() -> None:
    aside = BackgroundCall(lambda: 6 * 7, name="sum")
    assert aside.ended(wait_s=10)
    assert aside.result() == 42


def test_a_call_that_does_not_come_back_keeps_nobody_waiting() -> None:
    let_go = threading.Event()
    aside = BackgroundCall(let_go.wait, name="patient")
    assert not aside.ended()
    assert not aside.ended(wait_s=0.01)
    let_go.set()
    assert aside.ended(wait_s=10)
    assert aside.result() is True


def test_a_fault_is_raised_where_the_result_is_asked_for() -> None:
    def fails() -> None:
        raise SystemExit("no model")

    aside = BackgroundCall(fails, name="faulty")
    assert aside.ended(wait_s=10)
    with pytest.raises(SystemExit, match="no model"):
        aside.result()


def test_its_thread_does_not_keep_the_process_alive() -> None:
    let_go = threading.Event()
    aside = BackgroundCall(let_go.wait, name="left behind")
    (thread,) = [one for one in threading.enumerate() if one.name == "left behind"]
    assert thread.daemon
    let_go.set()
    assert aside.ended(wait_s=10)
