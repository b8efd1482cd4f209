"""Clocked LIF: the kernels against the plain-torch twin over a grid of sizes that hurt, and the definition itself."""

from __future__ import annotations

import itertools

import pytest
import torch

from had_snn.errors import InputError
from had_snn.ops import atan, build, lif_multi_step, lif_multi_step_ref, rect, sigmoid, triangle

WIDTHS = build.WIDTHS[: build.WIDTHS.index(build.native_width()) + 1]
SHAPES = [(1,), (3, 5), (2, 3, 1, 1), (2, 3, 5, 7), (1, 4, 8, 8), (5, 16, 3, 67)]


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test once per vector width that this processor has."""
    monkeypatch.setattr(build, "native_width", lambda: request.param)
    return request.param


def draw(shape: tuple[int, ...], steps: int, seed: int = 0) -> dict:
    """Inputs that fire often, with per-channel parameters where there are channels."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1] if len(shape) > 1 else 1
    return {
        "x": torch.randn(steps, *shape, generator=generator, requires_grad=True),
        "v0": torch.randn(shape, generator=generator, requires_grad=True),
        "tau": (torch.rand(channels, generator=generator) * 1000 + 10).requires_grad_(),
        "v_threshold": (torch.rand(channels, generator=generator) + 0.5).requires_grad_(),
    }


def run(function, inputs: dict, **options) -> tuple[list, list]:
    """Outputs, and gradients of a random linear function of all of them."""
    options = {"dt": 300.0, "v_reset": -0.2, "return_membranes": True} | options
    outputs = [o for o in function(**inputs, **options) if o is not None]
    generator = torch.Generator().manual_seed(9)
    loss = sum((o * torch.randn(o.shape, generator=generator).to(o.dtype)).sum() for o in outputs)
    return outputs, list(torch.autograd.grad(loss, list(inputs.values())))


def assert_gradients_close(ours: list, theirs: list, *, rtol: float = 1e-5) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()) + 1e-9)


@pytest.mark.parametrize("steps", [1, 2, 16, 17, 40])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("width")
def test_kernel_equals_the_twin(shape: tuple[int, ...], steps: int) -> None:
    for reset, detach in itertools.product(("hard", "soft"), (True, False)):
        options = {"reset": reset, "detach_reset": detach}
        inputs = draw(shape, steps)
        outputs, gradients = run(lif_multi_step, inputs, backend="native", **options)
        expected, expected_gradients = run(lif_multi_step_ref, inputs, **options)
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True)), options
        assert_gradients_close(gradients, expected_gradients)


@pytest.mark.parametrize("surrogate", [atan(), sigmoid(), triangle(), rect()], ids=lambda s: s.name)
@pytest.mark.usefixtures("width")
def test_every_surrogate_equals_the_twin(surrogate) -> None:
    for reset, detach in itertools.product(("hard", "soft"), (True, False)):
        options = {"surrogate": surrogate, "reset": reset, "detach_reset": detach, "return_membranes": False}
        inputs = draw((2, 3, 5, 7), 20)
        outputs, gradients = run(lif_multi_step, inputs, backend="native", **options)
        expected, expected_gradients = run(lif_multi_step_ref, inputs, **options)
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
        assert_gradients_close(gradients, expected_gradients)


def test_spikes_equal_on_a_hundred_million_neuron_steps() -> None:
    seen = 0
    taus = [10.0, 100.0, 1e3, 1e5, 1e7]  # 10 us to 10 s at a step of 1 ms
    for case, (tau, reset) in enumerate(itertools.product(taus, ("hard", "soft"))):
        generator = torch.Generator().manual_seed(case)
        for steps, neurons in ((1, 2_000_003), (7, 300_017), (64, 95_001)):
            x = torch.randn(steps, neurons, generator=generator)
            x = torch.where(torch.rand(x.shape, generator=generator) < 0.1, (x * 8).round() / 8, x)  # ties with 1.0
            options = {"tau": torch.tensor(tau), "dt": 1000.0, "reset": reset}
            ours, theirs = lif_multi_step(x, **options), lif_multi_step_ref(x, **options)
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])
            assert ours[0].any()
            seen += x.numel()
    assert seen >= 100_000_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("width")
def test_half_storage_computes_in_float32(dtype: torch.dtype) -> None:
    x = (torch.randn(20, 3, 4, 5, generator=torch.Generator().manual_seed(3)) * 2).to(dtype)
    x.view(-1)[:6] = torch.tensor([6e-5, -3e-8, 65504.0, -1e-7, 1.0, 1.0078125]).to(dtype)
    tau = torch.tensor([300.0, 700.0, 2000.0, 1e4])
    results = []
    for function in (lif_multi_step, lif_multi_step_ref):
        leaf = x.clone().requires_grad_()
        spikes, v, h = function(leaf, tau=tau, dt=500.0, return_membranes=True)
        assert spikes.dtype == dtype
        assert v.dtype == torch.float32
        assert h is not None
        (gradient,) = torch.autograd.grad((spikes * x).float().sum() + v.sum(), leaf)
        results.append((spikes, v, h, gradient))
    for a, b in zip(*(r[:3] for r in results), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(results[0][3], results[1][3], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded", "strided_steps"])
def test_memory_order_changes_nothing(layout: str) -> None:
    base = torch.randn(6, 2, 5, 4, 8, generator=torch.Generator().manual_seed(1))
    x = {
        "channels_last": lambda: base.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (6, 2)),
        "sliced": lambda: base[..., ::2],
        "transposed": lambda: base.transpose(1, 3),
        "expanded": lambda: base[:, :1].expand(6, 3, 5, 4, 8),
        "strided_steps": lambda: base[::2],
    }[layout]()
    tau = torch.linspace(100, 900, x.shape[2])
    leaf, dense = x.detach().requires_grad_(), x.contiguous().requires_grad_()
    (s1, v1, h1), (s2, v2, h2) = (lif_multi_step(a, tau=tau, dt=300.0, return_membranes=True) for a in (leaf, dense))
    assert h1 is not None
    assert h2 is not None
    assert torch.equal(s1, s2)
    assert torch.equal(v1, v2)
    assert torch.equal(h1, h2)
    if layout in ("channels_last", "transposed"):
        assert s1[0].stride() == x[0].stride()
    weights = torch.randn(s1.shape, generator=torch.Generator().manual_seed(2))
    g1, g2 = (torch.autograd.grad((s * weights).sum() + v.sum(), a)[0] for s, v, a in ((s1, v1, leaf), (s2, v2, dense)))
    torch.testing.assert_close(g1, g2, rtol=0, atol=0)


def test_threshold_is_strict_and_reset_immediate() -> None:
    x = torch.tensor([1.0, 0.5, 0.75, 0.0]).reshape(4, 1)
    spikes, v, h = lif_multi_step(x, tau=torch.tensor(1000 / 0.6931471805599453), dt=1000.0, return_membranes=True)
    assert h is not None
    assert h.flatten().tolist() == [1.0, 1.0, 1.25, 0.0]  # exactly at the threshold does not fire
    assert spikes.flatten().tolist() == [0.0, 0.0, 1.0, 0.0]
    assert v.tolist() == [0.0]


def test_state_carries_on_exactly() -> None:
    x = torch.randn(40, 3, 4, generator=torch.Generator().manual_seed(5))
    tau = torch.tensor([50.0, 500.0, 5e3, 5e4])
    whole, v_whole, _ = lif_multi_step(x, tau=tau, dt=300.0)
    first, v, _ = lif_multi_step(x[:17], tau=tau, dt=300.0)
    second, v, _ = lif_multi_step(x[17:], v, tau=tau, dt=300.0)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(v, v_whole)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_twin_gradient_is_that_of_the_smooth_network(reset: str) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    v0 = torch.randn(2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    tau = torch.tensor([200.0, 500.0, 900.0], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor([0.7, 1.0, 1.3], dtype=torch.float64, requires_grad=True)

    def smooth(x, v0, tau, threshold):
        options = {"dt": 300.0, "v_reset": 0.1, "reset": reset, "detach_reset": False, "smooth": True}
        return lif_multi_step_ref(x, v0, tau=tau, v_threshold=threshold, return_membranes=True, **options)

    assert torch.autograd.gradcheck(smooth, (x, v0, tau, threshold), atol=1e-6, rtol=1e-5)


def test_backward_keeps_input_and_chunk_potentials_only() -> None:
    kept: list[torch.Tensor] = []
    x = torch.randn(33, 4, 100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        spikes, _, _ = lif_multi_step(x, tau=torch.tensor(500.0), dt=100.0)
    large = [t for t in kept if t.numel() > 100]
    assert {t.data_ptr() for t in large} <= {x.data_ptr(), *(t.data_ptr() for t in large if t.numel() == 2 * 400)}
    assert spikes.requires_grad


def test_gradient_does_not_depend_on_the_number_of_threads() -> None:
    inputs = draw((3, 8, 40, 41), 5)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(run(lif_multi_step, inputs, backend="native")[1])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_empty_neurons_and_scalar_parameters() -> None:
    spikes, v, _ = lif_multi_step(torch.zeros(3, 0, 4), tau=torch.tensor(10.0), dt=1.0)
    assert spikes.shape == (3, 0, 4)
    assert v.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, dtype=torch.int32)}, "x holds int32"),
        ({"x": torch.zeros(0, 3)}, "T >= 1"),
        ({"v0": torch.zeros(4)}, "v0 has shape"),
        ({"tau": torch.tensor(float("nan"))}, "tau of channel 0"),
        ({"tau": torch.tensor(-5.0)}, "tau of channel 0"),
        ({"tau": torch.tensor([1.0, 2.0, 3.0])}, "tau has shape"),
        ({"tau": torch.ones(4, device="meta")}, "tau is on meta"),
        ({"v_threshold": -1.0}, "v_threshold of channel 0 is -1.0"),
        ({"v_threshold": torch.tensor(float("inf"))}, "v_threshold of channel 0"),
        ({"dt": 0.0}, "dt is 0.0"),
        ({"reset": "mild"}, "'mild' is unknown"),
        ({"backend": "cuda"}, "'cuda' is unknown"),
        ({"backend": "cupy"}, "does not run on cpu"),
        ({"x": torch.zeros(2, 1, 4, dtype=torch.float64), "backend": "native"}, "not float64"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict, message: str) -> None:
    arguments = {"x": torch.zeros(2, 1, 4), "tau": torch.tensor(100.0), "dt": 10.0} | change
    with pytest.raises(InputError, match=message):
        lif_multi_step(**arguments)


def test_float64_falls_back_to_the_twin_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    build._announced.clear()
    with caplog.at_level("INFO", logger="had_snn"):
        for _ in range(2):
            spikes, v, _ = lif_multi_step(torch.ones(2, 3, dtype=torch.float64), tau=torch.tensor(10.0), dt=1.0)
    assert v.dtype == spikes.dtype == torch.float64
    assert len([r for r in caplog.records if "reference" in r.message]) == 1
