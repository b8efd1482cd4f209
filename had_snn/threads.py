"""How many threads compute: one for a network that is done before a second one would have woken up.

Threads of OpenMP wait for work by spinning. Beside other work that takes time from those that have some: measured on
two cores beside two busy loops, a tiny student on two spinning threads took 9 ms for every twentieth box, not 1.3 ms.
So `import had_snn` asks waiting threads to sleep, and small networks stay on one thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_alone = False
#: Networks of fewer parameters run on one thread unless asked.
SMALL = 1_000_000


def let_waiting_threads_sleep() -> None:
    """Asks OpenMP not to spin, unless the user has chosen; works before the first library that uses it is loaded."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def available() -> int:
    """Processors that this process may use: its affinity, and the quota of its control group where there is one."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(mine, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no quota
        return mine


def use_what_is_available() -> None:
    """Lets torch use as many threads as there are processors for this process, unless the user has chosen a number.

    Of itself torch counts the machine's, also where a control group allows fewer.
    """
    import torch

    if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & {*os.environ}:
        torch.set_num_threads(min(torch.get_num_threads(), available()))


def one_for_good() -> None:
    """Keeps this process on one thread whatever is asked for: a fork has no copies of the threads of its parent, and
    OpenMP would wait for them for ever."""
    import torch

    global _alone
    _alone = True
    torch.set_num_threads(1)


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Lets torch and the kernels use so many threads while the block runs; as many as before when None."""
    import torch

    before = torch.get_num_threads()
    if threads is None or threads == before or _alone:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def for_network(network: object) -> int | None:
    """Threads for a network: one for a small one, None for what torch has."""
    parameters = getattr(network, "parameters", None)
    return 1 if parameters is not None and sum(p.numel() for p in parameters()) < SMALL else None
