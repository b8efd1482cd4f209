"""Event-driven LIF: the kernels against the twin, an independent float64 simulation, and their own cuts."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from event_batches import WIDTHS, Batch, draw, outputs_and_gradients, pack, parameters

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
