"""The operators inside torch: opcheck, torch.compile, autocast, deep copies of outputs, and recycled memory."""

from __future__ import annotations

import gc
import multiprocessing as mp

import pytest
import torch

from had_snn.errors import InputError
from had_snn.ops import event_lif, lif_multi_step, memory
from had_snn.ops.event_lif_kernels import event_lif_backward, event_lif_forward
from had_snn.ops.lif_kernels import lif_backward, lif_forward

TESTS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


class Events:
    """Two samples of a few events on a 6x6 grid."""

    t = torch.tensor([1, 4, 4, 9, 0, 3, 7])
    x = torch.tensor([0, 1, 5, 2, 3, 3, 4], dtype=torch.int16)
    y = torch.tensor([0, 1, 5, 2, 3, 3, 4], dtype=torch.int16)
    p = torch.tensor([0, 1, 1, 0, 1, 1, 0], dtype=torch.uint8)
    offsets = torch.tensor([0, 4, 7])
    t_begin = torch.tensor([0, 0])
    t_end = torch.tensor([10, 10])
    length_us = torch.tensor([10.0, 10.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 0.7], dtype=torch.float64)


def clocked_arguments(*, membranes: bool, channels_last: bool) -> tuple:
    x = torch.randn(19, 2, 3, 4, 4)
    if channels_last:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (19, 2))
    alpha, threshold = torch.rand(3), torch.rand(3) + 0.5
    leaves = [a.requires_grad_() for a in (x, torch.randn(2, 3, 4, 4), alpha, threshold)]
    return (*leaves, 2, 0.0, 2.0, 0, False, True, membranes, True)


def event_arguments(*, state: bool, membranes: bool) -> tuple:
    fields = tuple(getattr(Events, n) for n in ("t", "x", "y", "p", "offsets", "t_begin", "t_end", "length_us"))
    fields = (*fields, Events.scale.float())
    weight, rate, gain = torch.rand(18, 5), torch.rand(5) / 10, torch.rand(2)
    leaves = [a.requires_grad_() for a in (weight, rate, gain, torch.rand(5) + 0.5)]
    v0 = torch.rand(2, 2, 2, 5).requires_grad_() if state else None
    last = torch.full((2, 2, 2), -3) if state else None
    return (*fields, *leaves, v0, last, 6, 6, 3, 3, 0, 4, 0.0, 2.0, 0, False, True, membranes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("membranes", [False, True])
def test_opcheck_clocked(membranes: bool) -> None:
    for channels_last in (False, True):
        arguments = clocked_arguments(membranes=membranes, channels_last=channels_last)
        torch.library.opcheck(lif_forward, arguments, test_utils=TESTS)
        x, v0, alpha, threshold = (a.detach() for a in arguments[:4])
        _, _, _, kept = lif_forward(*arguments)
        need = [True, membranes, True, False]
        given = (torch.randn(x.shape), torch.randn(x.shape) if membranes else None, None)
        rest = (2, 0.0, 2.0, 0, False, True, need)
        torch.library.opcheck(lif_backward, (x, v0, alpha, threshold, kept.detach(), *given, *rest), test_utils=TESTS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("state", [False, True])
def test_opcheck_event_driven(state: bool) -> None:
    arguments = event_arguments(state=state, membranes=state)
    torch.library.opcheck(event_lif_forward, arguments, test_utils=TESTS)
    counts, _, _, _, entries, start, bound, remaining = (a.detach() for a in event_lif_forward(*arguments))
    weight, rate, gain, threshold, v0 = (None if a is None else a.detach() for a in arguments[9:14])
    given = (torch.randn(counts.shape), None, None, list(counts.shape), 0.0, 2.0, 0, False, True)
    times = (entries, start, bound, remaining, Events.t_begin, Events.scale.float())
    saved = (*times, weight, rate, gain, threshold, v0, arguments[14])
    torch.library.opcheck(event_lif_backward, (*saved, *given), test_utils=TESTS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_model_equals_the_eager_one() -> None:
    convolution = torch.nn.Conv2d(4, 6, 3, padding=1)
    weight = torch.rand(4, 2, 3, 3).requires_grad_()
    tau = torch.tensor([20.0, 50.0, 90.0, 200.0])

    def model(weight: torch.Tensor) -> torch.Tensor:
        counts, membranes, _ = event_lif(Events(), weight, tau, n_steps=4, size_hw=(6, 6), stride=3)
        assert membranes is not None
        current = convolution((counts + membranes).flatten(0, 1)).unflatten(0, (4, 2))
        spikes, v, _ = lif_multi_step(current, tau=tau.mean(), dt=2.5)
        return spikes.sum() + v.square().sum()

    eager = model(weight)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(weight)
    torch.testing.assert_close(compiled, eager)
    a, b = (torch.autograd.grad(loss, [weight, *convolution.parameters()]) for loss in (eager, compiled))
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_half_storage_between_layers(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=dtype):
        current = layer(torch.randn(5, 3, 8))
        spikes, v, _ = lif_multi_step(current, tau=torch.tensor(50.0), dt=10.0)
        assert current.dtype == spikes.dtype == dtype
        out = layer(spikes)
    (out.float().sum() + v.sum()).backward()
    assert layer.weight.grad is not None
    assert bool(torch.isfinite(layer.weight.grad).all())


def test_double_backward_is_refused_not_wrong() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    spikes, _, _ = lif_multi_step(x, tau=torch.tensor(5.0), dt=1.0)
    (g,) = torch.autograd.grad(spikes.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(g.sum(), x)


def big(value: float) -> torch.Tensor:
    out = memory.empty((3, 1 << 20), dtype=torch.float32, device=torch.device("cpu"))
    return out.fill_(value)


def test_large_outputs_are_recycled_and_never_shared() -> None:
    first = big(1.0)
    address = first.data_ptr()
    assert address % 64 == 0
    view = first[1:, 5:]
    del first
    gc.collect()
    other = big(2.0)
    assert other.data_ptr() != address  # a view keeps its memory
    assert bool((view == 1.0).all())
    del view
    gc.collect()
    before = memory.statistics()["recycled"]
    again = big(3.0)
    assert memory.statistics()["recycled"] == before + 1
    assert again.data_ptr() == address
    assert bool((other == 2.0).all())
    clone = again.clone()
    del again, other
    memory.release()
    assert memory.statistics()["free_bytes"] == 0
    assert bool((clone == 3.0).all())


def test_recycled_outputs_behave_like_any_tensor(tmp_path) -> None:
    x = torch.randn(4, 1 << 18, requires_grad=True)
    spikes, v, _ = lif_multi_step(x, tau=torch.tensor(5.0), dt=1.0)
    torch.save(spikes, tmp_path / "s.pt")
    assert torch.equal(torch.load(tmp_path / "s.pt"), spikes)
    assert spikes.detach().share_memory_().sum() == spikes.sum()
    (g,) = torch.autograd.grad(spikes.sum() + v.sum(), x)
    assert g.add_(1.0).isfinite().all()


def _child(queue) -> None:
    torch.set_num_threads(1)
    spikes, _, _ = lif_multi_step(torch.full((4, 1 << 18), 2.0), tau=torch.tensor(5.0), dt=1.0)
    queue.put(float(spikes.mean()))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_worker_can_use_the_kernels() -> None:
    keep = big(5.0)
    context = mp.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_child, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == 1.0
    process.join(timeout=60)
    assert process.exitcode == 0
    assert bool((keep == 5.0).all())


def test_pool_size_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAD_SNN_POOL_MB", "plenty")
    memory._pool.cache_clear()
    try:
        with pytest.raises(InputError, match="'plenty'"):
            big(0.0)
        monkeypatch.setenv("HAD_SNN_POOL_MB", "0")
        assert big(1.0).sum() == 3 << 20
        assert memory.statistics()["new"] == 0
    finally:
        memory._pool.cache_clear()
