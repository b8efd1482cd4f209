"""The GPU text of the kernels: its index arithmetic run on the CPU through a shim, its compilation for sm_80 and sm_90,
and, where there is a GPU, the same parity tests on it."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from had_snn.native import Parameters, kernel_folder
from had_snn.ops import atan, build, event_lif, event_lif_kernels, lif_kernels, lif_multi_step, sigmoid
from had_snn.ops.event_bucket import Events, bucket_events_torch
from had_snn.ops.event_lif_kernels import EventBackward, EventForward, Window
from had_snn.ops.lif_kernels import Clocked, LifBackward, LifForward
from had_snn.ops.surrogate import Neuron

KERNELS = kernel_folder()
HERE = Path(__file__).parent
FLAGS = ["-std=gnu++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-DHAD_SHIM", "-Wall", "-Werror"]
GRIDS = [(1, 1), (3, 32), (7, 13)]


@pytest.fixture(scope="module")
def compiler() -> str:
    """The host compiler."""
    found = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if found is None:
        pytest.skip("no C++ compiler: the GPU text cannot be run on the CPU")
    return found


@pytest.fixture(scope="module")
def shim(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The GPU kernels compiled by the host compiler."""
    target = tmp_path_factory.mktemp("shim") / "shim.so"
    ignored = ["-Wno-unused-parameter", "-Wno-unknown-pragmas"]
    subprocess.run(
        [compiler, *FLAGS, *ignored, f"-I{KERNELS}/neuron", str(HERE / "shim.cpp"), "-o", str(target)], check=True
    )
    return ctypes.CDLL(str(target))


def launcher(library: ctypes.CDLL, grid: int, block: int):
    """A stand-in for `build.launch_cupy` that runs the shim with the given grid."""

    def launch(name: str, given: Parameters) -> None:
        # CuPy copies a parameter from where its array of one element lies.
        argument = build.by_value(given)
        assert argument.size == 1
        assert argument.nbytes == ctypes.sizeof(given)
        getattr(library, f"shim_{name}")(grid, block, ctypes.c_void_p(argument.ctypes.data))

    return launch


@pytest.mark.parametrize(("grid", "block"), GRIDS)
def test_clocked_text_on_the_cpu(shim: ctypes.CDLL, grid: int, block: int) -> None:
    launch, neuron = launcher(shim, grid, block), Neuron(v_reset=-0.1, slope=2.0, detach=True)
    for steps, shape in itertools.product((1, 16, 35), ((3,), (2, 3, 5, 7))):
        channels = shape[1] if len(shape) > 1 else 1
        inner = shape[2] * shape[3] if len(shape) > 2 else 1
        neurons = torch.Size(shape).numel()
        x, v0, g_s, g_h = (torch.randn(n, *shape) for n in (steps, 1, steps, steps))
        alpha, threshold, g_v = torch.rand(channels), torch.rand(channels) + 0.5, torch.randn(shape)
        settings = (-0.1, 2.0, 0, False, True)
        dim = 2 if channels > 1 else 0
        expected = lif_kernels.lif_forward(x, v0[0], alpha, threshold, dim, *settings, True, True)
        s, v, h, kept = (torch.full_like(e, 7.0) for e in expected)
        clocked = Clocked(
            **build.addresses(x=x, v0=v0, alpha=alpha, threshold=threshold, kept=kept if kept.numel() else None),
            T=steps,
            N=neurons,
            x_step=neurons,
            channels=channels,
            inner=inner,
            neuron=neuron,
        )
        launch("lif_forward", LifForward(clocked=clocked, **build.addresses(s=s, v=v, h=h)))
        assert all(torch.equal(a, b) for a, b in zip((s, v, h, kept), expected, strict=True))
        need = [True] * 4
        expected = lif_kernels.lif_backward(x, v0[0], alpha, threshold, kept, g_s, g_h, g_v, dim, *settings, need)
        g_x, g_v0 = (torch.zeros_like(e) for e in expected[:2])
        g_a, g_t = torch.zeros(4, channels), torch.zeros(4, channels)
        grads = {"g_s": g_s, "g_h": g_h, "g_v": g_v, "g_x": g_x, "g_v0": g_v0, "g_alpha": g_a, "g_threshold": g_t}
        launch("lif_backward", LifBackward(clocked=clocked, **build.addresses(**grads), rows=4))
        for a, b in zip((g_x, g_v0, g_a.sum(0), g_t.sum(0)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("grid", "block"), GRIDS)
def test_event_text_on_the_cpu(shim: ctypes.CDLL, grid: int, block: int) -> None:
    launch = launcher(shim, grid, block)
    T, C, k, stride, pad, hw, B = 3, 5, 3, 2, 1, (7, 9), 2
    sites_hw = (4, 5)
    t = torch.cat([torch.randint(0, 1000, (n,)).sort().values for n in (150, 90)])
    x, y = torch.randint(0, 9, (240,)).short(), torch.randint(0, 7, (240,)).short()
    p = torch.randint(0, 2, (240,)).to(torch.uint8)
    offsets, begin, end = torch.tensor([0, 150, 240]), torch.zeros(B, dtype=torch.int64), torch.full((B,), 1000)
    weight, rate, gain, threshold = torch.randn(18, C), torch.rand(C) / 100, torch.rand(B) + 0.5, torch.rand(C) + 0.5
    v0, last0 = torch.rand(B, *sites_hw, C), torch.full((B, *sites_hw), -20)
    settings = (0.1, 2.0, 0, False, True)
    length, scale = torch.tensor([1000.0, 1000.6], dtype=torch.float64), torch.tensor([1.0, 0.7])
    fields = (t, x, y, p, offsets, begin, end)
    expected = event_lif_kernels.event_lif_forward(
        *fields, length, scale, weight, rate, gain, threshold, v0, last0, *hw, k, stride, pad, T, *settings, True
    )
    start, entries = bucket_events_torch(Events(*fields), grid=hw, kernel=k, stride=stride, padding=pad)
    bound, remaining = event_lif_kernels.step_ends(begin, end, length, T)
    counts, membranes, v, last = (torch.full_like(e, 7) for e in expected[:4])
    common = (weight, rate, gain, threshold, v0, last0)
    window = Window(
        **build.addresses(entries=entries, start=start, bound=bound, weight=weight, rate=rate, gain=gain),
        **build.addresses(threshold=threshold, v0=v0, t_last0=last0, scale=scale, remaining=remaining),
        sites=B * 20,
        sites_per_sample=20,
        T=T,
        C=C,
        neuron=Neuron(v_reset=0.1, slope=2.0, detach=True),
    )
    outputs = build.addresses(counts=counts, membranes=membranes, v=v, t_last=last)
    launch("event_lif_forward", EventForward(window=window, **outputs))
    assert all(torch.equal(a, b) for a, b in zip((counts, membranes, v, last), expected, strict=False))
    g_c, g_m, g_v = torch.randn(counts.shape), torch.randn(counts.shape), torch.randn(v.shape)
    expected = event_lif_kernels.event_lif_backward(
        *(*expected[4:], begin, scale, *common, g_c, g_m, g_v), list(counts.shape), *settings
    )
    replicas = 3
    shapes = [(replicas, 18, C), (replicas, C), (B,), (replicas, C), v.shape]
    outs = [torch.zeros(shape) for shape in shapes]
    given = {"g_counts": g_c, "g_membranes": g_m, "g_v": g_v, "potentials": torch.empty(entries.numel(), C)}
    given |= dict(zip(("g_weight", "g_rate", "g_gain", "g_threshold", "g_v0"), outs, strict=True))
    launch("event_lif_backward", EventBackward(window=window, **build.addresses(**given), taps=18, rows=replicas))
    outs = [out.sum(0) if place in (0, 1, 3) else out for place, out in enumerate(outs)]
    for a, b in zip(outs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


COMPILED = [
    ("lif.cu", "F32", "sm_80"),
    ("lif.cu", "F16", "sm_90"),
    ("lif.cu", "BF16", "sm_90"),
    ("lif.cu", "F32", "sm_90"),
]
COMPILED += [("event_lif.cu", "F32", "sm_80"), ("event_lif.cu", "F32", "sm_90")]


@pytest.mark.parametrize(("file", "storage", "architecture"), COMPILED)
def test_compiles_for_gpus_without_warnings(file: str, storage: str, architecture: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: the GPU text is not compiled here")
    source = tmp_path / "k.cu"
    source.write_text(with_layouts(f"neuron/{file}"))
    options = ["-std=c++17", "--fmad=false", "-Werror", "all-warnings", "-Xptxas", "-Werror", f"-arch={architecture}"]
    options += [f"-I{KERNELS}", f"-DHAD_STORAGE_{storage}"]
    command = [nvcc, "-cubin", *options, str(source), "-o", str(tmp_path / "k.cubin")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr


#: Files of kernels, and the Python files that mirror their structs.
MIRRORS = {
    "neuron/lif.cu": ["had_snn.ops.lif_kernels", "had_snn.ops.surrogate"],
    "neuron/event_lif.cu": ["had_snn.ops.event_lif_kernels"],
    "host/bucket.cpp": ["had_snn.ops.event_bucket"],
    "host/columns.cpp": ["had_snn.recordings.decoders"],
    "host/counts.cpp": ["had_snn.ops.spike_count"],
    "host/crop.cpp": ["had_snn.events.cropping"],
    "host/match.cpp": ["had_snn.ops.spiking_conv"],
    "host/pool.cpp": ["had_snn.ops.memory"],
    "host/readers.cpp": ["had_snn.recordings.decoders"],
    "host/spike_conv.cpp": ["had_snn.ops.spike_conv"],
    "host/spike_gradient.cpp": ["had_snn.ops.spiking_conv"],
    "host/text.cpp": ["had_snn.recordings.decoders"],
    "sensor/sensor.cpp": ["had_snn.simulator.sensor"],
}
SCALARS = {ctypes.c_longlong: "had_i64", ctypes.c_ulonglong: "had_u64", ctypes.c_int: "int"}
SCALARS |= {ctypes.c_float: "float", ctypes.c_double: "double"}


def mirrored(file: str) -> list[type[Parameters]]:
    """The mirrors of a file's structs: those whose docstring names it, whatever file defines the C struct they hold."""
    modules = [importlib.import_module(name) for name in MIRRORS[file]]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    mirrors = [kind for kind in found if issubclass(kind, Parameters) and kind is not Parameters]
    headers = {"neuron/lif.cu": "neuron/surrogate.cuh", "sensor/sensor.cpp": "sensor/scene.hpp"}
    return [k for k in mirrors if any(f"`kernels/{n}`" in str(k.__doc__) for n in (file, headers.get(file)))]


def with_layouts(file: str) -> str:
    """A translation unit that holds a file of kernels and compiles only if its structs are those of their mirrors."""
    lines = [f'#include "{file}"', "template <class A, class B> struct Same { static constexpr bool yes = false; };"]
    lines += ["template <class A> struct Same<A, A> { static constexpr bool yes = true; };"]
    lines += ["template <class A> struct Pointer { static constexpr bool yes = false; };"]
    lines += ["template <class A> struct Pointer<A*> { static constexpr bool yes = true; };"]
    for mirror in mirrored(file):
        name = mirror.__name__
        lines.append(f'static_assert(sizeof({name}) == {ctypes.sizeof(mirror)}, "size of {name}");')
        for field, kind in mirror._fields_:
            where, size = getattr(mirror, field).offset, getattr(mirror, field).size
            wanted = f"__builtin_offsetof({name}, {field}) == {where} && sizeof({name}::{field}) == {size}"
            if kind is ctypes.c_void_p:
                wanted += f" && Pointer<decltype({name}::{field})>::yes"
            elif issubclass(kind, ctypes.Array):
                wanted += f" && Same<decltype({name}::{field}), {SCALARS[kind._type_]}[{kind._length_}]>::yes"
            else:
                wanted += f" && Same<decltype({name}::{field}), {SCALARS.get(kind, kind.__name__)}>::yes"
            lines.append(f'static_assert({wanted}, "{name}.{field}");')
        # A binding of another number of names than the struct has members does not compile.
        names = ", ".join(f"f{i}" for i in range(len(mirror._fields_)))
        lines += [f"[[maybe_unused]] static void members_of(const {name}& p) {{", f"  const auto& [{names}] = p;"]
        lines += [*(f"  (void)f{i};" for i in range(len(mirror._fields_))), "}"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("file", MIRRORS)
def test_structs_are_those_of_their_mirrors(file: str, compiler: str, tmp_path: Path) -> None:
    assert mirrored(file)
    source = tmp_path / "layout.cpp"
    source.write_text(with_layouts(file))
    flags = ["-std=gnu++17", "-fsyntax-only", "-Wall", "-Wno-unknown-pragmas", f"-I{KERNELS}"]
    result = subprocess.run([compiler, *flags, str(source)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_struct_goes_unchecked() -> None:
    checked = {kind for file in MIRRORS for kind in mirrored(file)}
    assert checked == set(Parameters.__subclasses__())
    files = {path.relative_to(KERNELS).as_posix() for path in KERNELS.glob("*/*") if path.suffix in (".cu", ".cpp")}
    assert files == {*MIRRORS, "host/processor.cpp"}


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@gpu
@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_clocked_gpu_equals_cpu(dtype: torch.dtype, reset: str) -> None:
    for steps, surrogate in itertools.product((1, 16, 40), (atan(), sigmoid())):
        x, tau = torch.randn(steps, 3, 5, 9, 11).to(dtype), torch.rand(5) * 900 + 10
        results = []
        for device in ("cpu", "cuda"):
            a, b = x.to(device).requires_grad_(), tau.to(device).requires_grad_()
            options = {"tau": b, "dt": 300.0, "reset": reset, "surrogate": surrogate, "return_membranes": True}
            s, v, h = lif_multi_step(a, **options, backend={"cpu": "native", "cuda": "cupy"}[device])
            assert h is not None
            results.append(
                (s, v, h, *torch.autograd.grad(s.float().sum() + v.square().sum() + h.float().sum(), (a, b)))
            )
        for i, (a, b) in enumerate(zip(*results, strict=True)):
            if i < 3:
                assert torch.equal(a, b.cpu())
            else:
                torch.testing.assert_close(a, b.cpu(), rtol=1e-3 if i == 4 else 1e-5, atol=1e-2 if i == 4 else 1e-5)


@gpu
@pytest.mark.cuda
@pytest.mark.parametrize("neurons", [3, 1000, 300_001])
def test_one_time_constant_for_all_neurons_gets_the_cpus_gradient(neurons: int) -> None:
    x, tau, found = torch.randn(4, neurons) * 0.6, torch.tensor(900.0), []
    for device in ("cpu", "cuda"):
        shared = tau.to(device).requires_grad_()
        s, v, _ = lif_multi_step(x.to(device), tau=shared, dt=300.0)
        found.append(torch.autograd.grad(s.sum() + v.square().sum(), shared)[0].cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


@gpu
@pytest.mark.cuda
def test_event_gpu_equals_cpu() -> None:
    class Moved:
        def __init__(self, device: str) -> None:
            generator = torch.Generator().manual_seed(0)
            t = torch.cat([torch.randint(0, 9000, (4000,), generator=generator).sort().values for _ in range(3)])
            x, y, p = (torch.randint(0, n, (12000,), generator=generator) for n in (40, 30, 2))
            self.t, self.x, self.y, self.p = (
                t.to(device),
                x.short().to(device),
                y.short().to(device),
                p.byte().to(device),
            )
            self.offsets = (torch.arange(4) * 4000).to(device)
            self.t_begin, self.t_end = (
                torch.zeros(3, dtype=torch.int64, device=device),
                torch.full((3,), 9000, device=device),
            )

    weight, tau, results = torch.randn(16, 2, 5, 5), torch.rand(16) * 900 + 100, []
    for device in ("cpu", "cuda"):
        w, b = weight.to(device).requires_grad_(), tau.to(device).requires_grad_()
        counts, membranes, state = event_lif(Moved(device), w, b, n_steps=5, size_hw=(30, 40), stride=4, padding=2)
        assert membranes is not None
        loss = counts.square().sum() + membranes.sum() + state.v.sum()
        results.append((counts, membranes, state.v, *torch.autograd.grad(loss, (w, b))))
    for i, (a, b) in enumerate(zip(*results, strict=True)):
        if i < 3:
            assert torch.equal(a, b.cpu())
        else:
            torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-3 * float(a.abs().max()))
