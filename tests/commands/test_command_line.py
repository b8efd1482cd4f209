"""The command line itself: mistakes end in one line and exit code 2, and jobs of a multirun never share an output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from had_snn.commands.names import JOBS
from had_snn.commands.run_folder import open_run

ROOT = Path(__file__).resolve().parents[2]


def not_started(cfg):
    pytest.fail("the job was started")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit.iterations=abc"], "fit.iterations expects a whole number from 1"),
        (["fit.iterations=0"], "fit.iterations=0"),
        (["fit.batch_size=0"], "fit.batch_size expects"),
        (["labels=2"], "labels expects"),
        (["fit.precision=half"], "one of 32-true"),
        (["out="], "out expects a folder; found nothing"),
        (["out=file"], "out=file is a file"),
        (["out=/proc/nothing"], "out=/proc/nothing cannot be written"),
        (["--outt=x"], "outt: distill_student has no such option; did you mean out"),
        (["--out"], "--out needs a value: --out VALUE, or out=VALUE"),
        (["out", "=", "x"], "'out' is no option: options are name=value, without blanks"),
        (["out = x"], """'out = x' is no option: options are name=value, without blanks around ="""),
        (["seed=0,1"], "a comma divides the jobs of --multirun; a list is seed=[0,1]"),
        (["carry=a(b"], "quoted twice, once for the shell: 'carry=\"a(b\"'"),
        (["+no_such=1"], "no such option"),
        (["+no.such=1"], "no such option"),
        (["no_such=1"], "no_such: distill_student has no such option"),
        (["fit.iteratons=1"], "did you mean fit.iterations"),
        (["data=no_such_set"], "no_such_set"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_mistakes_are_one_line_and_leave_nothing(start, tmp_path, arguments, says):
    (tmp_path / "file").touch()
    done = start("distill_student", *arguments, main=not_started)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("job", "arguments", "says"),
    [
        ("convert", [], "error: convert needs in=... (options: had-snn convert --help)"),
        ("convert", ["recording=a.raw"], "error: recording: convert has no such option"),
        ("convert", ["in=a.raw", "output=b.npz"], "error: output: convert has no such option; did you mean out"),
        ("check_data", ["dta=coesot"], "error: dta: check_data has no such option; did you mean data"),
    ],
)
def test_options_are_those_of_the_job(start, job, arguments, says):
    done = start(job, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(says)
    assert "did you mean recording" not in done.stderr


def test_a_disk_that_fills_up_is_one_line(start):
    def main(cfg):
        raise OSError(28, "No space left on device", "runs/student/resume.pt")

    done = start("demo", main=main)
    assert done.returncode == 2
    assert done.stderr == "error: [Errno 28] No space left on device: 'runs/student/resume.pt'\n"


def test_a_bug_keeps_its_traceback(start):
    def main(cfg):
        raise OSError(2, "a bug")

    with pytest.raises(OSError, match="a bug"):
        start("demo", main=main)


@pytest.mark.parametrize(
    "name",
    ["2024", "2024.10", "1e3", "true", "my run", "a(b", "a=b", "a,b", "[a]", "it's", 'say "a"', "a\\", "~/x", '"~/x"'],
)
def test_a_folder_may_have_any_name(start, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = []
    done = start("demo", f"out={name}", main=lambda cfg: found.append(cfg.out))
    assert (done.returncode, done.stderr) == (0, "")
    plain = name.strip('"') if name[0] == '"' else name
    assert found == [plain.replace("~", str(tmp_path / "home"))]


@pytest.mark.parametrize(
    ("arguments", "outs"),
    [
        (["seed=0,1"], ["one/0", "one/1"]),
        (["seed=0,1", "out=a,b"], ["a/0", "b/1", "a/2", "b/3"]),
        (["seed=0,1", "out='mine-${hydra:job.num}'"], ["mine-0", "mine-1"]),
    ],
)
def test_jobs_of_a_multirun_have_outputs_of_their_own(start, arguments, outs):
    found = []

    def main(cfg):
        found.append((cfg.seed, cfg.out))
        (open_run(cfg) / "result.json").write_text(json.dumps(cfg.seed))

    arguments = arguments if any(a.startswith("out") for a in arguments) else [*arguments, "out=one"]
    assert start("demo", "--multirun", *arguments, main=main).returncode == 0
    assert sorted(out for _, out in found) == sorted(outs)
    assert [json.loads(Path(out, "result.json").read_text()) for _, out in found] == [seed for seed, _ in found]


def test_files_of_a_multirun_are_numbered(start):
    found = []
    done = start("bench_evaluate", "-m", "frames=10,20", "out=table.json", main=lambda cfg: found.append(cfg.out))
    assert done.returncode == 0
    assert found == ["table-0.json", "table-1.json"]


@pytest.mark.parametrize(
    ("typed", "recording", "box"),
    [
        (["a=b [1].raw", "--box", "42,225,44,17"], "a=b [1].raw", [42, 225, 44, 17]),
        (["--recording", "a=b [1].raw", "--box=4.5,2,44,17"], "a=b [1].raw", [4.5, 2, 44, 17]),
        (["recording=a=b [1].raw", "box=[1,2,3,4]"], "a=b [1].raw", [1, 2, 3, 4]),
        (["recording='a=b [1].raw'", "box=1,2,3,4"], "a=b [1].raw", [1, 2, 3, 4]),
        (["--box", "boxes of x=1.csv", "2024"], "2024", "boxes of x=1.csv"),
        (["--live", "--box", "draw", "--start-us", "-5"], "-", "draw"),
    ],
)
def test_files_and_boxes_are_given_as_one_would(start, tmp_path, typed, recording, box):
    for name in ("a=b [1].raw", "2024"):
        (tmp_path / name).touch()
    found = []
    done = start("track", *typed, main=lambda cfg: found.append(cfg))
    assert (done.returncode, done.stderr) == (0, "")
    assert (found[0].recording or "-", found[0].box) == (recording, box)
    assert found[0].live == ("--live" in typed)
    assert found[0].start_us == (-5 if "--start-us" in typed else None)


@pytest.mark.parametrize(
    ("typed", "camera"),
    [
        (["--camera"], True),
        (["--camera", "--live"], True),
        (["--camera", "box=[1,2,3,4]"], True),
        (["--camera", "EVK4"], "EVK4"),
        (["--camera", "Prophesee EVK4"], "Prophesee EVK4"),
        (["--camera", "00050423"], "00050423"),
        (["--camera=00050423"], "00050423"),
        (["camera=DAVIS346"], "DAVIS346"),
        ([], False),
    ],
)
def test_a_camera_is_named_or_not(start, typed, camera):
    found = []
    done = start("track", *typed, main=lambda cfg: found.append(cfg.camera))
    assert (done.returncode, done.stderr, found) == (0, "", [camera])


def test_a_recording_that_is_not_there_is_named(start):
    done = start("track", "nothing.raw", "box=[1,2,3,4]")
    assert done.returncode == 2
    assert done.stderr.startswith("error: nothing.raw: no such file")


def test_the_screen_comes_without_any_library_and_names_every_job():
    code = (
        "import sys; from had_snn.commands.cli import main; sys.argv[1:] = ['--help']; main();"
        "print(sorted({'torch', 'hydra', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *screen, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert [line.split()[0] for line in screen if line.strip() and line.split()[0] in JOBS] == [*JOBS]


@pytest.mark.parametrize("arguments", [["track", "--help"], ["distill", "fit.iteratons=1"], ["tarck"]])
def test_help_and_mistakes_come_before_torch_is_loaded(arguments, tmp_path):
    code = (
        "import sys; from had_snn.commands.cli import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert done.returncode == (0 if "--help" in arguments else 2)
    assert "did you mean" in done.stdout + done.stderr or "--help" in arguments


@pytest.mark.parametrize("arguments", [["--help"], ["track", "--help"]], ids=" ".join)
def test_a_reader_that_has_seen_enough_is_no_mistake(arguments):
    command = [sys.executable, "-m", "had_snn", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, bufsize=0)
    assert process.stdout is not None
    process.stdout.close()
    _, words = process.communicate()
    assert (process.returncode, words) == (0, b"")
