"""Event-driven LIF: the kernels against the twin, an independent float64 simulation, and their own cuts."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import (
    EventLIFState,
    build,
    decay_factor,
    event_lif,
    event_lif_ref,
    lif_multi_step,
    output_hw,
)
from had_snn.ops.event_bucket import Events, bucket_events, bucket_events_torch
from had_snn.ops.event_lif import plain_exp

WIDTHS = build.WIDTHS[: build.WIDTHS.index(build.native_width()) + 1]


@dataclass
class Batch:
    """The fields that `event_lif` reads."""

    t: Tensor
    x: Tensor
    y: Tensor
    p: Tensor
    offsets: Tensor
    t_begin: Tensor
    t_end: Tensor
    length_us: Tensor = None  # type: ignore[assignment]  # whole windows when None
    scale: Tensor = None  # type: ignore[assignment]  # 1 when None

    def __post_init__(self) -> None:
        self.length_us = (self.t_end - self.t_begin).double() if self.length_us is None else self.length_us
        self.scale = torch.ones(len(self.t_begin), dtype=torch.float64) if self.scale is None else self.scale


def pack(samples: list[np.ndarray], t_begin: list[int], t_end: list[int]) -> Batch:
    """Packs arrays `[n, 4]` of t, x, y, p."""
    rows = np.concatenate([np.asarray(s, dtype=np.int64).reshape(-1, 4) for s in samples])
    t, x, y, p = torch.from_numpy(rows).unbind(1)
    offsets = torch.tensor([0, *np.cumsum([len(np.asarray(s).reshape(-1, 4)) for s in samples])])
    limits = torch.tensor(t_begin), torch.tensor(t_end)
    return Batch(t.contiguous(), x.short(), y.short(), p.to(torch.uint8), offsets, *limits)


def draw(counts: list[int], hw: tuple[int, int], *, span: int = 1000, start: int = 1 << 33, seed: int = 0) -> Batch:
    """Random events, many of them at equal times."""
    rng = np.random.default_rng(seed)
    samples = []
    for count in counts:
        t = start + np.sort(rng.integers(0, span, count))
        samples.append(
            np.stack([t, rng.integers(0, hw[1], count), rng.integers(0, hw[0], count), rng.integers(0, 2, count)], 1)
        )
    return pack(samples, [start] * len(counts), [start + span] * len(counts))


def parameters(channels: int, kernel: int, samples: int, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(channels, 2, kernel, kernel, generator=generator).requires_grad_(),
        "tau": (torch.rand(channels, generator=generator) * 500 + 50).requires_grad_(),
        "v_threshold": (torch.rand(channels, generator=generator) + 0.5).requires_grad_(),
        "gain": (torch.rand(samples, generator=generator) + 0.5).requires_grad_(),
    }


def outputs_and_gradients(
    function, events: Batch, inputs: dict, state: EventLIFState | None = None, **options
) -> tuple:
    options = {"n_steps": 3, "v_reset": 0.1} | options
    counts, membranes, new = function(events, **inputs, state=state, **options)
    generator = torch.Generator().manual_seed(7)
    terms = [counts, new.v] if membranes is None else [counts, membranes, new.v]
    loss = sum((o * torch.randn(o.shape, generator=generator)).sum() for o in terms)
    leaves = [*inputs.values(), *([] if state is None else [state.v])]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [*terms, new.t_last], [torch.zeros(()) if g is None else g for g in gradients]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"), [(3, 4, 4, 0), (16, 3, 2, 1), (21, 5, 2, 2), (1, 3, 4, 0)]
)
def test_kernel_equals_the_twin(
    channels: int, kernel: int, stride: int, padding: int, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "native_width", lambda: width)
    hw = (9, 10)
    events = draw([60, 0, 31], hw)
    grid = {"size_hw": hw, "stride": stride, "padding": padding}
    out = output_hw(hw, kernel=kernel, stride=stride, padding=padding)
    v = torch.rand(3, channels, *out, generator=torch.Generator().manual_seed(5)).requires_grad_()
    state = EventLIFState(v, torch.full((3, *out), (1 << 33) - 100))
    for reset, detach, begin in itertools.product(("hard", "soft"), (True, False), (None, state)):
        options = grid | {"reset": reset, "detach_reset": detach, "return_membranes": begin is not None or detach}
        inputs = parameters(channels, kernel, 3)
        ours, our_gradients = outputs_and_gradients(event_lif, events, inputs, begin, **options)
        theirs, their_gradients = outputs_and_gradients(event_lif_ref, events, inputs, begin, **options)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), options
        for a, b in zip(our_gradients, their_gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5 * float(b.abs().max()) + 1e-9)


def test_kernel_equals_the_twin_in_network_time() -> None:
    hw, grid = (9, 10), {"size_hw": (9, 10), "stride": 2, "padding": 1}
    events = draw([60, 40, 50, 31], hw)
    lengths, scales = torch.tensor([1000.7, 1000.0, 1000.31, 1000.0]), torch.tensor([0.8409, 1.0, 5.3, 0.8409])
    events = replace(events, length_us=lengths.double(), scale=scales.double())
    out = output_hw(hw, kernel=3, stride=2, padding=1)
    state = EventLIFState(torch.rand(4, 6, *out).requires_grad_(), torch.full((4, *out), (1 << 33) - 100))
    for begin in (None, state):
        inputs = parameters(6, 3, 4)
        ours, our_gradients = outputs_and_gradients(event_lif, events, inputs, begin, **grid)
        theirs, their_gradients = outputs_and_gradients(event_lif_ref, events, inputs, begin, **grid)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        for a, b in zip(our_gradients, their_gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5 * float(b.abs().max()) + 1e-9)


@pytest.mark.parametrize("power", [-6, -4, -1, 3, 4])
@pytest.mark.parametrize("scale", [1.0, 2**0.25, 2**-0.5, 0.03, 30.0])
def test_times_scaled_by_a_power_of_two_give_the_same_bits(power: int, scale: float) -> None:
    hw, length = (9, 10), 4000 / scale * 8
    events = draw([900, 300], hw, span=max(1, int(length) // 64), start=1 << 20, seed=5)
    t = (events.t - (1 << 20)) * 64 + (1 << 26)  # multiples of 64 us
    end = int(t.max()) // 64 * 64 + 64

    def played(factor: float) -> Batch:
        ends = torch.full((2,), round(end * factor))
        exact = torch.full((2,), length * factor, dtype=torch.float64)
        times, first = (t * factor).round().long(), ends - exact.floor().long()
        kept = times >= first.repeat_interleave(events.offsets.diff())
        offsets = torch.tensor([0, int(kept[: events.offsets[1]].sum()), int(kept.sum())])
        fields = (times[kept], events.x[kept], events.y[kept], events.p[kept], offsets, first, ends)
        return Batch(*fields, exact, torch.full((2,), scale / factor, dtype=torch.float64))

    options = {"size_hw": hw, "stride": 2, "padding": 1, "n_steps": 4, "return_membranes": False}
    inputs = parameters(6, 3, 2) | {"tau": torch.logspace(2.5, 4.5, 6).requires_grad_()}
    plain, plain_gradients = outputs_and_gradients(event_lif, played(1.0), inputs, **options)
    other, other_gradients = outputs_and_gradients(event_lif, played(2.0**power), inputs, **options)
    assert float(plain[0].detach().sum()) > 0
    assert all(torch.equal(a, b) for a, b in zip(plain[:2], other[:2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain_gradients, other_gradients, strict=True))


def test_windows_of_a_batch_do_not_meet() -> None:
    hw, options = (9, 10), {"size_hw": (9, 10), "stride": 2, "padding": 1, "n_steps": 3}
    events = draw([80, 60, 70], hw)
    events = replace(events, scale=torch.tensor([0.5, 3.1, 1.0], dtype=torch.float64))
    inputs = {name: value.detach() for name, value in parameters(6, 3, 3).items()}
    together = event_lif(events, **inputs, **options)
    for b in range(3):
        low, high = int(events.offsets[b]), int(events.offsets[b + 1])
        columns = (getattr(events, name)[low:high] for name in "txyp")
        windows = (getattr(events, name)[b : b + 1] for name in ("t_begin", "t_end", "length_us", "scale"))
        alone = event_lif(
            Batch(*columns, torch.tensor([0, high - low]), *windows),
            **inputs | {"gain": inputs["gain"][b : b + 1]},
            **options,
        )
        assert torch.equal(alone[0][:, 0], together[0][:, b])
        assert torch.equal(alone[1][:, 0], together[1][:, b])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_no_positive_number_is_refused(scale: float) -> None:
    events = draw([5], (8, 8))
    events = replace(events, scale=torch.tensor([scale], dtype=torch.float64))
    with pytest.raises(InputError, match="time scale of sample 0"):
        event_lif(events, torch.rand(2, 2, 3, 3), torch.tensor(50.0), n_steps=2, size_hw=(8, 8), stride=3)


def simulate(
    events: Batch, weight: np.ndarray, tau: np.ndarray, hw: tuple[int, int], stride: int, padding: int, steps: int
):
    """An independent float64 simulation, one event at a time; also the smallest distance to the threshold it met."""
    channels, _, k, _ = weight.shape
    out_h, out_w = output_hw(hw, kernel=k, stride=stride, padding=padding)
    samples = len(events.t_begin)
    v, last = np.zeros((samples, channels, out_h, out_w)), np.zeros((samples, out_h, out_w))
    counts, margin = np.zeros((steps, samples, channels, out_h, out_w)), np.inf
    for b in range(samples):
        begin, span = int(events.t_begin[b]), int(events.t_end[b] - events.t_begin[b])
        for i in range(int(events.offsets[b]), int(events.offsets[b + 1])):
            t, x, y, p = (int(f[i]) for f in (events.t, events.x, events.y, events.p))
            for oy, ox in itertools.product(range(out_h), range(out_w)):
                dy, dx = y + padding - oy * stride, x + padding - ox * stride
                if not (0 <= dy < k and 0 <= dx < k):
                    continue
                v[b, :, oy, ox] *= np.exp(-(t - begin - last[b, oy, ox]) / tau)
                v[b, :, oy, ox] += weight[:, p, dy, dx]
                margin = min(margin, np.abs(v[b, :, oy, ox] - 1).min())
                fired = v[b, :, oy, ox] > 1
                counts[(t - begin) * steps // span, b, :, oy, ox] += fired
                v[b, fired, oy, ox] = 0
                last[b, oy, ox] = t - begin
    return counts, v, margin


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 4, 0), (3, 1, 1), (5, 3, 2)])
def test_counts_equal_a_float64_simulation(kernel: int, stride: int, padding: int) -> None:
    hw = (12, 14)
    for seed in range(6):
        events = draw([700, 300], hw, span=20_011, seed=seed)
        inputs = parameters(5, kernel, 2, seed)
        weight, tau = inputs["weight"].detach(), inputs["tau"].detach()
        counts, _, state = event_lif(events, weight, tau, n_steps=7, size_hw=hw, stride=stride, padding=padding)
        exact, v, margin = simulate(events, weight.double().numpy(), tau.double().numpy(), hw, stride, padding, 7)
        assert margin > 1e-6, "a tie: choose another seed"
        np.testing.assert_array_equal(counts.numpy(), exact)
        np.testing.assert_allclose(state.v.numpy(), v, atol=1e-5)


def test_ties_are_strict_and_equal_times_do_not_decay() -> None:
    events = pack([[[5, 0, 0, 1], [5, 0, 0, 1], [5, 0, 0, 0], [9, 0, 0, 1]]], [0], [10])
    weight = torch.tensor([0.25, 0.5]).reshape(1, 2, 1, 1)  # off events add 1/4, on events 1/2
    counts, membranes, state = event_lif(events, weight, torch.tensor([1e4]), n_steps=10, size_hw=(1, 1), stride=1)
    # 1/2 + 1/2 is exactly the threshold and does not fire; the quarter on top does; the last event starts from 0.
    assert counts.flatten().nonzero().flatten().tolist() == [5]
    assert membranes is not None
    assert membranes.flatten()[:9].tolist() == [0.0] * 9
    assert state.v.item() == 0.5
    assert state.t_last.item() == 9


@pytest.mark.parametrize("cuts", [[500], [1, 2, 999], [250, 500, 750], [333, 334]])
@pytest.mark.parametrize("start", [0, (1 << 31) - 500, 1 << 45])
def test_any_cut_gives_the_same_bits(cuts: list[int], start: int) -> None:
    hw, events = (8, 9), draw([400, 90], (8, 9), start=start, seed=3)
    inputs = {k: v.detach() for k, v in parameters(6, 3, 2).items()}
    options = {"size_hw": hw, "stride": 2, "padding": 1}
    whole, _, end = event_lif(events, **inputs, n_steps=1, **options)
    state, total = None, torch.zeros_like(whole)
    for low, high in itertools.pairwise([0, *cuts, 1000]):
        rows = [torch.arange(int(a), int(b)) for a, b in itertools.pairwise(events.offsets)]
        rows = [r[(events.t[r] >= start + low) & (events.t[r] < start + high)] for r in rows]
        index = torch.cat(rows)
        part = Batch(
            *(f[index] for f in (events.t, events.x, events.y, events.p)),
            torch.tensor([0, *np.cumsum([len(r) for r in rows])]),
            events.t_begin + low,
            events.t_begin + high,
        )
        counts, _, state = event_lif(part, **inputs, n_steps=1, state=state, **options)
        total += counts
    assert state is not None
    assert torch.equal(total, whole)
    assert torch.equal(state.v, end.v)
    touched = end.v.abs().amax(1) > 0
    assert torch.equal(state.t_last[touched], end.t_last[touched])


def test_halves_of_a_window_give_its_micro_steps() -> None:
    hw, events = (8, 8), draw([600], (8, 8), start=0, seed=4)
    inputs = {k: v.detach() for k, v in parameters(4, 4, 1).items()}
    whole, membranes, _ = event_lif(events, **inputs, n_steps=8, size_hw=hw, stride=4)
    middle = int((events.t < 500).sum())
    state, parts, ends = None, [], []
    for low, high, first, last in ((0, 500, 0, middle), (500, 1000, middle, 600)):
        fields = (f[first:last] for f in (events.t, events.x, events.y, events.p))
        part = Batch(*fields, torch.tensor([0, last - first]), torch.tensor([low]), torch.tensor([high]))
        counts, membrane, state = event_lif(part, **inputs, n_steps=4, size_hw=hw, stride=4, state=state)
        parts.append(counts)
        ends.append(membrane)
    assert torch.equal(torch.cat(parts), whole)
    assert membranes is not None
    assert torch.equal(torch.cat(ends), membranes)


def test_gradient_flows_through_chained_windows() -> None:
    hw, events = (8, 8), draw([200], (8, 8), start=0, seed=4)
    gradients = []
    middle = int((events.t < 500).sum())
    for cut in (False, True):
        inputs = parameters(4, 4, 1)
        options = {"size_hw": hw, "stride": 4}
        if cut:
            first = replace(events, t_end=torch.tensor([500]), offsets=torch.tensor([0, middle]))
            first = replace(first, **{f: getattr(events, f)[:middle] for f in ("t", "x", "y", "p")})
            second = replace(events, t_begin=torch.tensor([500]), offsets=torch.tensor([0, 200 - middle]))
            second = replace(second, **{f: getattr(events, f)[middle:] for f in ("t", "x", "y", "p")})
            one, _, state = event_lif(first, **inputs, n_steps=1, **options)
            two, _, state = event_lif(second, **inputs, n_steps=1, state=state, **options)
            loss = one.sum() + 2 * two.sum() + state.v.sum()
        else:
            counts, _, state = event_lif(events, **inputs, n_steps=2, **options)
            loss = counts[0].sum() + 2 * counts[1].sum() + state.v.sum()
        gradients.append(torch.autograd.grad(loss, list(inputs.values())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_twin_gradient_is_that_of_the_smooth_network() -> None:
    events = draw([12, 5], (5, 5), seed=2)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    tau = torch.tensor([300.0, 800.0], dtype=torch.float64, requires_grad=True)
    gain = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor([0.7, 1.2], dtype=torch.float64, requires_grad=True)

    def smooth(weight, tau, gain, threshold):
        options = {"n_steps": 2, "size_hw": (5, 5), "stride": 2, "detach_reset": False, "smooth": True, "v_reset": 0.1}
        counts, membranes, state = event_lif_ref(events, weight, tau, gain=gain, v_threshold=threshold, **options)
        return counts, membranes, state.v

    assert torch.autograd.gradcheck(smooth, (weight, tau, gain, threshold), atol=1e-6, rtol=1e-5)


def test_clocked_form_converges_to_the_event_driven_one() -> None:
    rng, span, tau = np.random.default_rng(0), 40_000, torch.tensor([8000.0])
    t = np.sort(rng.integers(0, span, 300))
    events = pack([np.stack([t, *np.zeros((3, 300), int)], 1)], [0], [span])
    weight = torch.tensor([0.31, 0.31]).reshape(1, 2, 1, 1)
    exact, _, _ = event_lif(events, weight, tau, n_steps=40, size_hw=(1, 1), stride=1)
    errors = []
    for dt in (1000, 100, 10, 1):
        current = torch.from_numpy(np.bincount(t // dt, minlength=span // dt)).float().reshape(-1, 1, 1) * 0.31
        spikes, _, _ = lif_multi_step(current, tau=tau, dt=float(dt))
        per_step = spikes.reshape(40, -1).sum(1)
        errors.append(float((per_step - exact.flatten()).abs().sum()) / float(exact.sum()))
    assert errors[0] > errors[-1]
    assert errors[-1] <= 0.02
    assert math.isclose(float(decay_factor(tau, 8000.0)), math.exp(-1), rel_tol=1e-6)


def test_edges_of_the_input() -> None:
    options = {"size_hw": (6, 6), "stride": 3}
    weight, tau = torch.full((2, 2, 3, 3), 0.4), torch.tensor([100.0, 1e7])
    nothing = pack([np.zeros((0, 4)), np.zeros((0, 4))], [0, 7], [10, 9])
    counts, membranes, state = event_lif(nothing, weight, tau, n_steps=4, **options)
    assert counts.shape == (4, 2, 2, 2, 2)
    assert membranes is not None
    assert not counts.any()
    assert not membranes.any()
    assert not state.v.any()
    one = pack([[[9, 5, 5, 1]]], [0], [10])  # the last microsecond, the last pixel
    counts, membranes, _ = event_lif(one, weight, tau, n_steps=3, **options)
    assert membranes is not None
    assert membranes.nonzero()[:, 0].tolist() == [2, 2]
    crowd = pack([np.stack([np.arange(5000), *np.full((2, 5000), 4), np.ones(5000, int)], 1)], [0], [5000])
    ours = event_lif(crowd, weight, tau, n_steps=2, **options)[0]
    assert ours.sum((0, 1, 3, 4)).tolist()[1] == 5000 // 3  # 0.4 three times passes 1; tau of 10 s hardly decays
    assert ours[:, 0, :, 1, 1].sum() == ours.sum()


def test_silent_sites_keep_their_state_untouched() -> None:
    state = EventLIFState(torch.rand(1, 2, 2, 2), torch.tensor([[[-5, -7], [-9, -11]]]))
    events = pack([[[3, 0, 0, 1]]], [0], [10])
    weight, tau = torch.full((2, 2, 3, 3), 0.1), torch.tensor([100.0, 50.0])
    _, membranes, new = event_lif(events, weight, tau, n_steps=2, size_hw=(6, 6), stride=3, state=state)
    assert torch.equal(new.v[..., 1, :], state.v[..., 1, :])
    assert new.t_last.tolist() == [[[3, -7], [-9, -11]]]
    assert membranes is not None
    expected = state.v[0, 1, 1, 1] * math.exp(-(5 + 11) / 50)
    torch.testing.assert_close(membranes[0, 0, 1, 1, 1], expected)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 4, 0), (3, 2, 1), (7, 3, 3), (2, 5, 0), (1, 1, 0)])
def test_both_ways_of_bucketing_agree(kernel: int, stride: int, padding: int) -> None:
    hw = (23, 19)
    events = draw([500, 0, 1, 300], hw, seed=1)
    fields = Events(*(getattr(events, name) for name in Events._fields))
    geometry = {"grid": hw, "kernel": kernel, "stride": stride, "padding": padding}
    out_h, out_w = output_hw(hw, kernel=kernel, stride=stride, padding=padding)
    start = torch.empty(4 * out_h * out_w + 1, dtype=torch.int64)
    entries = torch.empty(801 * (-(-kernel // stride)) ** 2, dtype=torch.int64)
    bucket_events(fields, **geometry, start=start, entries=entries)
    other_start, other = bucket_events_torch(fields, **geometry)
    assert torch.equal(start, other_start)
    assert torch.equal(entries[: int(start[-1])], other[: int(start[-1])])


@pytest.mark.parametrize("membranes", [True, False])
def test_silences_longer_than_the_tables_of_decays(membranes: bool) -> None:
    """A few events over 200 ms: ages beyond the coarse table's last row are computed, to the same bits."""
    events, inputs = draw([30, 12], (4, 4), span=200_000, seed=6), parameters(19, 2, 2)
    with torch.no_grad():
        inputs["tau"] *= 300
    options = {"size_hw": (4, 4), "stride": 2, "return_membranes": membranes}
    ours, our_gradients = outputs_and_gradients(event_lif, events, inputs, **options)
    theirs, their_gradients = outputs_and_gradients(event_lif_ref, events, inputs, **options)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for a, b in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5 * float(b.abs().max()) + 1e-9)


def test_long_sites_and_many_events_have_the_right_gradient() -> None:
    """More events on a site than the backward holds at once: chunks must join."""
    rng = np.random.default_rng(0)
    rows = np.stack([np.sort(rng.integers(0, 5000, 700)), *rng.integers(0, 2, (3, 700))], 1)
    events, inputs = pack([rows], [0], [5000]), parameters(3, 2, 1)
    options = {"size_hw": (2, 2), "stride": 2, "n_steps": 6}
    _, ours = outputs_and_gradients(event_lif, events, inputs, **options)
    _, theirs = outputs_and_gradients(event_lif_ref, events, inputs, **options)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5 * float(b.abs().max()))


def test_gradient_does_not_depend_on_the_number_of_threads() -> None:
    events, inputs = draw([30_000, 20_000], (32, 32), seed=8), parameters(16, 4, 2)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(outputs_and_gradients(event_lif, events, inputs, size_hw=(32, 32), stride=4))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(itertools.chain(*results[0]), itertools.chain(*results[1]), strict=True):
        assert torch.equal(a, b)


def test_exponential_is_replayed_by_torch_and_accurate() -> None:
    x = -torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 90
    x[:4] = torch.tensor([0.0, -87.0, -87.0001, -1e30])
    y = plain_exp(x)
    assert y[0] == 1
    assert y[2] == y[3] == 0
    exact = torch.exp(x[x >= -87].double())
    assert float(((y[x >= -87].double() - exact) / exact).abs().max()) < 2e-7


BAD_EVENTS = [
    ({"t": [1, 5, 3, 9]}, r"event 2 .* earlier than the event before it \(5\)"),
    ({"t": [1, 5, 6, 10]}, r"event 3 .* outside its window \[0, 10\)"),
    ({"t": [-1, 5, 6, 9]}, "event 0 .* outside its window"),
    ({"x": [0, 6, 0, 0]}, "event 1 .* outside the 6x5 grid"),
    ({"y": [0, 0, 5, -1]}, "event 2 .* outside the 6x5 grid"),
    ({"p": [0, 1, 1, 2]}, "event 3 .* polarity"),
    ({"offsets": [0, 3]}, "offsets run from 0 to 3"),
    ({"offsets": [1, 4]}, "offsets run from 1 to 4"),
    ({"t_end": [0]}, "window of sample 0 is 0 us"),
    ({"x": torch.zeros(4, dtype=torch.int64)}, r"events.x is int64 \[4\]"),
    ({"y": torch.zeros(3, dtype=torch.int16)}, r"events.y is int16 \[3\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD_EVENTS, ids=[m[:24] for _, m in BAD_EVENTS])
def test_bad_events_are_refused_with_the_first_index(change: dict, message: str) -> None:
    good = pack([[[1, 0, 0, 0], [5, 1, 1, 1], [6, 2, 2, 1], [9, 5, 4, 0]]], [0], [10])
    values = {
        k: v if isinstance(v, Tensor) else torch.tensor(v, dtype=getattr(good, k).dtype) for k, v in change.items()
    }
    with pytest.raises(InputError, match=message):
        event_lif(replace(good, **values), torch.ones(1, 2, 2, 2), torch.ones(1), n_steps=2, size_hw=(5, 6), stride=2)


BAD_OPTIONS = [
    ({"tau": torch.tensor([float("nan")])}, "tau of channel 0"),
    ({"tau": torch.tensor([-3.0])}, "tau of channel 0"),
    ({"tau": torch.ones(2)}, r"tau has shape \[2\]"),
    ({"v_threshold": -1.0}, "v_threshold of channel 0"),
    ({"gain": torch.ones(3)}, "gain has shape"),
    ({"gain": torch.tensor([float("inf")])}, "gain of sample 0"),
    ({"weight": torch.ones(1, 3, 2, 2)}, "weight has shape"),
    ({"weight": torch.ones(1, 2, 2, 2, dtype=torch.int32)}, "weight holds int32"),
    ({"weight": torch.ones(1, 2, 2, 2, device="meta")}, "move them to one device"),
    ({"n_steps": 0}, "n_steps is 0"),
    ({"stride": 0}, "stride 0"),
    ({"size_hw": (1, 6)}, "size_hw is 1x6"),
    ({"reset": "none"}, "'none' is unknown"),
    ({"state": EventLIFState(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))}, "state has v"),
    ({"state": EventLIFState(torch.zeros(1, 1, 2, 3), torch.full((1, 2, 3), 5))}, "state.t_last lies after"),
]


@pytest.mark.parametrize(("change", "message"), BAD_OPTIONS, ids=[m[:24] for _, m in BAD_OPTIONS])
def test_bad_options_are_refused_by_name(change: dict, message: str) -> None:
    events = pack([[[1, 0, 0, 0]]], [0], [10])
    options = {"weight": torch.ones(1, 2, 2, 2), "tau": torch.ones(1), "n_steps": 2, "size_hw": (5, 6), "stride": 2}
    with pytest.raises(InputError, match=message):
        event_lif(events, **(options | change))
