"""A small network stays on one thread, and threads that wait sleep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from had_snn import EventStream, OnlineTracker, threads
from had_snn.models import student_base, student_tiny


@pytest.fixture(autouse=True)
def _as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("make", "asked", "used"), [(student_tiny, None, 1), (student_tiny, 2, 2), (student_base, None, 3)]
)
def test_a_small_student_computes_on_one_thread_unless_asked(make, asked, used, monkeypatch):
    torch.set_num_threads(3)
    tracker, seen = OnlineTracker(make(), threads=asked), []
    monkeypatch.setattr(tracker, "_estimate", lambda state, t_us: seen.append(torch.get_num_threads()))
    tracker.init(EventStream.empty((180, 240)), [10, 10, 20, 20], t_us=0)
    with pytest.raises(AttributeError):  # what stands in for a box is none
        tracker.update(EventStream.empty((180, 240)), at_us=[1000])
    assert seen == [used]
    assert torch.get_num_threads() == 3, "the number is the caller's own again"


def test_threads_are_as_before_after_an_error():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), threads.limited(1):
        _ = 1 / (torch.get_num_threads() - 1)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("given", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_waiting_threads_are_asked_to_sleep_before_torch_is_loaded(given, found):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    code = "import sys, had_snn, os; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found, "False"]


def test_no_more_processors_than_there_are(monkeypatch, tmp_path):
    assert 1 <= threads.available() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "Path", lambda path: quota)
    for text, count in (("200000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 8)):
        quota.write_text(text)
        assert threads.available() == count
