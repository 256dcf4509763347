"""Processes that are really killed, and the same command again."""

import signal
import subprocess
import sys

import pytest
from conftest import TESTS

from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

PROGRAM = """
import os, signal, sys, threading
from asdjax import cli
from asdjax.files import atomic
from asdjax.runtime import parallel
from asdjax.store.checkpoint import Checkpoints

moment, count = sys.argv[1], 0

def die_at(n):
    global count
    count += 1
    if count == n:
        os.kill(os.getpid(), signal.SIGKILL)

save, write, split = Checkpoints.save, atomic.write_bytes, parallel.split_batch

def killed_save(self, *args):
    global count
    count += 1
    if count == 2:
        threading.Timer(0.005, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    save(self, *args)

def killed_write(path, content):
    write(path, content)
    if path.suffix == moment:
        die_at(2)

def killed_split(batch, devices):
    die_at(5)
    return split(batch, devices)

if moment == "save":
    Checkpoints.save = killed_save
elif moment == "step":
    parallel.split_batch = killed_split
else:
    atomic.write_bytes = killed_write
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module", params=["tiny", pytest.param("views", marks=pytest.mark.slow)])
def run_of(request, corpus_root):
    """One view, and seven, of which each is a program."""

    def run(path, *moment):
        start = ["-c", PROGRAM, *moment] if moment else ["-m", "asdjax"]
        recipe = str(TESTS / f"{request.param}.yaml")
        verb = ["run", recipe, "--data", str(corpus_root), "--run", str(path)]
        command = [sys.executable, *start, *verb]
        return subprocess.run(command, capture_output=True, check=False).returncode

    return run


@pytest.fixture(scope="module")
def whole(run_of, tmp_path_factory):
    """An uninterrupted run's results."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert run_of(path) == 0
    return results(path)


def results(path):
    files = [*path.glob("embeddings/*/*.npz"), *path.glob("scores/*"), *path.glob("metrics/*")]
    found = {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
    views = len(Run(path).config().extract.views)
    assert len(found) == 3 * views + 3 + 2  # machines and views, scores, metrics
    return {**found, "weights": Run(path).finished_training()["digest"]}


@pytest.mark.parametrize(
    "moment",
    [
        "save",
        pytest.param(".npz", marks=pytest.mark.slow),
        pytest.param("step", marks=pytest.mark.slow),
        pytest.param(".csv", marks=pytest.mark.slow),
    ],
)
def test_killed_and_given_again(moment, run_of, whole, tmp_path):
    assert run_of(tmp_path / "run", moment) == -9
    assert run_of(tmp_path / "run") == 0
    assert results(tmp_path / "run") == whole


START = """
import atexit, ctypes, gc, hashlib, os, signal, sys, threading, time
from asdjax import __main__, cli, errors
from asdjax.runtime import interruption

def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)

def later(seconds, number=signal.SIGINT):
    threading.Timer(seconds, send, [number]).start()

def main():
    interruption.watch()
    command()

cli.main = main
interruption.PATIENCE = 1
"""
FINISH = "\nsys.exit(__main__.main())"
SENTENCE = "asdjax: interrupted: nothing was done\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("later(0.2); time.sleep(60)", 130),
        ("later(0.2, signal.SIGTERM); time.sleep(60)", 143),
        ("later(0.2, signal.SIGHUP); time.sleep(60)", 129),
        ("later(0.2); later(0.3); later(0.9, signal.SIGTERM); time.sleep(60)", 130),
        # the exception is lost, becomes another one, or meets one
        ("gc.callbacks.append(lambda *_: send()); gc.collect(); gc.callbacks.clear()\\\n"
         "    or time.sleep(60)", 130),
        ("later(0.2)\n    try: time.sleep(60)\n    except BaseException: pass\n"
         "    time.sleep(60)", 130),
        ("later(0.2)\n    try: time.sleep(60)\n"
         "    except BaseException: raise ImportError from None", 130),
        ("later(0.2)\n    try: time.sleep(60)\n"
         "    finally: raise errors.AsdjaxError('half a file')", 130),
        # nothing in Python notices it
        ("later(0.2); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)", 130),
        # threads that nobody could wait for, or that fail because the rest ends
        ("threading.Thread(target=time.sleep, args=[60]).start(); send()", 130),
        ("threading.Timer(0.3, lambda: 1 / 0).start()\n    try: send()\n"
         "    finally: time.sleep(0.6)", 130),
    ],
)  # fmt: skip
def test_every_signal_ends_in_one_sentence(command, code):
    ended = start(START + f"def command():\n    {command}" + FINISH)
    assert (ended.returncode, ended.stderr) == (code, SENTENCE)


@pytest.mark.parametrize(
    ("held", "block", "code", "out", "lost"),
    [
        # it has the time to save
        (60, "while not interruption.is_told(): time.sleep(0.01)\n"
         "        time.sleep(0.5); print('saved', flush=True); interruption.stop('1 is saved')",
         143, "saved\n", "1 is saved"),
        # it does not end in time, in Python or elsewhere
        (0.3, "time.sleep(60)", 143, "", "nothing was done"),
        (0.3, "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)", 143, "", "nothing was done"),
    ],
)  # fmt: skip
def test_sigterm_is_held_back_to_save(held, block, code, out, lost):
    command = (
        f"interruption.HELD = {held}; later(0.2, signal.SIGTERM)\n"
        f"    with interruption.saving_first():\n        {block}"
    )
    ended = start(START + f"def command():\n    {command}" + FINISH)
    said = f"asdjax: interrupted: {lost}\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, said)


def test_ctrl_c_and_signals_after_the_block_are_not_held_back():
    for block in (
        "with interruption.saving_first(): later(0.2); time.sleep(60)",
        "with interruption.saving_first(): pass\n    later(0.2); time.sleep(60)",
    ):
        ended = start(START + f"def command():\n    {block}" + FINISH)
        assert (ended.returncode, ended.stderr) == (130, SENTENCE)


def test_work_that_nothing_interrupts_ends_without_standard_error_too():
    command = "later(0.2); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
    program = START + f"def command():\n    os.close(2); {command}" + FINISH
    assert start(program).returncode == 130


def test_cleaning_up_is_not_interrupted_again():
    command = (
        "later(0.1)\n    try: time.sleep(60)\n"
        "    finally: time.sleep(0.7); print('clean', flush=True)"
    )
    ended = start(START + f"def command():\n    {command}" + FINISH)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "clean\n", SENTENCE)


def test_a_module_is_imported_whole(tmp_path):
    module = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.4)\n"
    (tmp_path / "slow.py").write_text(module + "print('whole', flush=True)\n")
    command = f"sys.path.insert(0, {str(tmp_path)!r}); import slow; time.sleep(60)"
    ended = start(START + f"def command():\n    {command}" + FINISH)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "whole\n", SENTENCE)


def test_a_signal_during_an_import_ends_the_command_after_it(tmp_path):
    """Not only with a repetition of the signal, before which a short command may be through."""
    module = "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.4)\n"
    (tmp_path / "slow.py").write_text(module)
    rare = "interruption.PATIENCE, interruption._AGAIN = 60, 20"
    command = f"{rare}; sys.path.insert(0, {str(tmp_path)!r}); import slow; time.sleep(5)"
    ended = start(START + f"def command():\n    {command}" + FINISH)
    assert (ended.returncode, ended.stderr) == (143, SENTENCE)


def test_a_signal_during_the_first_imports_ends_the_command_before_its_work(tmp_path):
    module = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
    (tmp_path / "fast.py").write_text(module)
    main = f"    sys.path.insert(0, {str(tmp_path)!r})\n    import fast\n    interruption.watch()\n"
    program = START.replace("    interruption.watch()\n", main)
    ended = start(program + "def command():\n    print('worked')" + FINISH)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", SENTENCE)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["nothing"], ["docs"], ["--quiet"]])
def test_a_signal_during_the_first_imports_ends_every_command(words, tmp_path):
    """Also those that only print."""
    program = (
        f"import sys\nsys.argv = ['asdjax', *{words!r}]\n"
        "from asdjax import __main__\nfrom asdjax.runtime import console\n"
        "prepare = console.prepare\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "def early():\n    prepare(); import fast\n"
        "console.prepare = early\nsys.exit(__main__.main())"
    )
    module = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
    (tmp_path / "fast.py").write_text(module)
    ended = start(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", SENTENCE)


@pytest.mark.parametrize("event", ["call", "return"])
def test_a_line_is_said_once(event):
    """A signal right before or after the operating system has it."""
    command = (
        "from asdjax.runtime import console\n"
        "def trace(frame, event, _):\n"
        f"    if frame.f_code.co_name == 'write' and event == {event!r}: send()\n"
        "    return trace\n"
        "def command():\n"
        "    sys.settrace(trace); console.say('started'); sys.settrace(None); time.sleep(60)"
    )
    ended = start(START + command + FINISH)
    assert (ended.returncode, ended.stderr) == (130, "started\n" + SENTENCE)


EARLY = """
import os, runpy, signal, sys
import asdjax

sys.argv = ["asdjax", "--version"]
HERE = os.path.dirname(asdjax.__file__)


def trace(frame, event, _):
    global lines
    if not frame.f_code.co_filename.startswith(HERE):
        return None
    if event == "line":
        lines += signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        before.append(lines == 0)
        if lines == aim:
            signal.raise_signal(signal.SIGINT)
    return trace


aim, codes, before = 1, set(), []
while 0 not in codes:
    lines = 0
    if not os.fork():
        sys.settrace(trace)
        try:
            runpy.run_module("asdjax", run_name="__main__")
        finally:
            assert sum(before) <= 4
    codes.add(os.waitstatus_to_exitcode(os.wait()[1]))
    aim += 1 + max(aim - 40, 0) // 4
print(aim, *sorted(codes))
"""


def test_ctrl_c_at_the_very_start_shows_no_traceback():
    """At the lines of ours after the first four: 40, and then fewer, to the end of the command."""
    done = start(EARLY)
    aim, *codes = map(int, done.stdout.splitlines()[-1].split())
    assert aim > 1000 and codes == [-signal.SIGINT, 0, 130], done.stderr
    assert set(done.stderr.splitlines()) == {SENTENCE.strip()}


@pytest.mark.parametrize(
    "program",
    [
        "def command(): atexit.register(lambda: (send(), time.sleep(0.1)))",  # after its end
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\ndef command(): send(); time.sleep(0.4)",
    ],
    ids=["ended", "nohup"],
)
def test_signals_that_change_nothing(program):
    ended = start(START + program + FINISH)
    assert (ended.returncode, ended.stderr) == (0, "")


def start(program):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
