"""Printed tables: whole names and figures at every width, and nothing taken for markup."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console
from support.scored_runs import make_run, score_rows

from asdjax.commands import compare, evaluate
from asdjax.runtime import console
from asdjax.scoring import tables
from asdjax.scoring.tables import Table

FIGURE = re.compile(r"[+-]?\d+\.\d\d(?=[\s!│┃\],])")
LONG = ("a_machine_whose_name_has_40_characters_A", "a_machine_whose_name_has_40_characters_B")
ODD = ("[bold]fan", "[/]", "a|b", "bearing\x1b[31m\nEmu", ":smile:", "ファン", "\udcff")


def shown(renderable, width):
    terminal = Console(width=width, record=True, file=io.StringIO())
    terminal.print(renderable)
    return terminal.export_text()


def assert_whole(text, names, width):
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width and "…" not in text
    for name in names:
        assert console.printable(name) in (
            text if cell_len(name) < width else text.replace("\n", "")
        )


@pytest.fixture
def documents(rng, tmp_path):
    """The four kinds of document, for machines of given names."""

    def make(names):
        back = {f"machine{i}": name for i, name in enumerate(names)}  # folders' names are tamer
        rows = {machine: score_rows(rng, machine) for machine in back}
        changed = {
            machine: [{**row, "score": repr(float(row["score"]) + rng.normal())} for row in table]
            for machine, table in rows.items()
        }
        runs = [make_run(tmp_path / str(i), made, i) for i, made in enumerate((rows, changed))]

        def renamed(value):
            if not isinstance(value, dict):
                return value
            return {back.get(key, key): renamed(inside) for key, inside in value.items()}

        found = (
            (evaluate, evaluate.evaluate(runs[0], resamples=100)),
            (evaluate, evaluate.by_view(runs[0], resamples=100)),
            (evaluate, evaluate.evaluate_runs(runs, resamples=100)),
            (compare, compare.compare(*runs, resamples=100)),
        )
        return [(verb, renamed(document)) for verb, document in found]

    return make


@pytest.mark.parametrize("names", [("bearingEmu", "bearingToo"), LONG, ODD])
def test_names_and_figures_are_whole_at_every_width(documents, names):
    for verb, document in documents(names):
        rows = names if document["schema"] != "asdjax.views/1" else ("raw", "mild")
        brief = verb.printed(document, intervals=False)
        figures = [
            value
            for table in brief
            for row in table.cells[1:]
            for cell in row[1:]
            for value in FIGURE.findall(f"{cell} ")
        ]
        for width in (40, 41, 60, 80, 119, 120, 150, 200):
            text = shown(verb.terminal_table(document), width)
            assert_whole(text, rows, width)
            found = FIGURE.findall(text)
            for value in set(figures):
                assert found.count(value) >= figures.count(value), (width, value)


def test_intervals_give_way_to_names(documents):
    (_, document), (_, by_view), (_, spread), (_, difference) = documents(("fan", "valve"))
    for one in (document, by_view):
        for width, wide in ((80, False), (119, False), (120, True), (200, True)):
            text = shown(evaluate.terminal_table(one), width)
            assert ("[" in text) == wide == ("in brackets" in text)
            assert ("intervals: --json or a wider terminal" in text) != wide
    assert "intervals: " not in shown(evaluate.terminal_table(spread), 80)
    text = shown(compare.terminal_table(difference), 80)
    low, high = (f"{100 * end:+.2f}" for end in difference["official_score"]["interval"])
    assert f"[{low}, {high}]" in text  # over all machines there is room
    assert "intervals: --json or a wider terminal" in text
    assert "[" not in shown(compare.terminal_table(difference), 60)


def test_columns_are_shared_out_evenly_and_then_listed():
    header = ["machine", *(f"official AUC {i}" for i in range(7))]
    table = Table("Per cent.", [header, ["fan", *["50.00"] * 7], ["mean", *["40.00"] * 7]])

    def grids(width):
        text = shown(tables.Fitted([table], [table], ["legend"]), width)
        assert text.startswith("Per cent.") and text.rstrip().endswith("legend")
        return [line.count("50.00") for line in text.splitlines() if "│ fan" in line]

    assert [grids(width) for width in (90, 60, 45)] == [[7], [4, 3], [3, 2, 2]]
    assert grids(15) == []  # a list
    assert "fan\n  official AUC \n0 50.00\n" in shown(tables.Fitted([table], [table], []), 15)


def test_an_ascii_terminal_gets_escapes_that_are_whole_too():
    table = Table("± 1", [["machine", "official AUC"], ["fän", "50.00 ± 1.00"], ["mean", "-"]])
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, width=40).print(tables.Fitted([table], [table], []))
    file.seek(0)
    lines = file.read().splitlines()
    assert lines[0] == "+- 1" and len(set(map(len, lines[1:]))) == 1
    assert any("| f\\xe4n " in line and "50.00 +- 1.00 |" in line for line in lines)


def test_a_table_in_markdown_and_on_a_terminal():
    cells = [["machine", "official AUC source"], ["[fan]", "51.00\n[40.00, 60.00]"], ["a|b", "-"]]
    table = Table("Per cent [really].", cells)
    assert tables.markdown(table).splitlines() == [
        "Per cent [really].",
        "",
        "| machine | official AUC source |",
        "| --- | ---: |",
        "| [fan] | 51.00 [40.00, 60.00] |",
        "| a\\|b | - |",
    ]
    text = shown(tables.Fitted([table], [table], ["[/]"]), 60)
    for part in ("Per cent [really].", "[fan]", "51.00", "[40.00, 60.00]", "[/]"):
        assert part in text  # nothing is taken for markup


def test_markdown_rows_stay_rows(documents):
    for verb, document in documents(ODD):
        for line in verb.markdown(document).splitlines():
            assert line.isprintable()
            if line.startswith("|"):
                assert line.endswith("|")


def test_a_terminal_of_a_process_and_a_pipe(rng, tmp_path):
    names = (*LONG, "bearingEmu")
    run = make_run(tmp_path, {name: score_rows(rng, name) for name in names})
    command = [sys.executable, "-m", "asdjax", "evaluate", str(run.path), "--resamples", "100"]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    terminal, end = pty.openpty()
    process = subprocess.Popen(command, stdout=end, stderr=subprocess.PIPE, env=environment)
    os.close(end)
    printed = b""
    while chunk := _read(terminal):
        printed += chunk
    os.close(terminal)
    said = process.communicate()[1].decode()
    assert process.returncode == 0, said
    text = re.sub(r"\x1b\[[\d;]*m", "", printed.decode()).replace("\r", "")
    assert_whole(text, names, 80)
    assert "intervals: --json or a wider terminal" in text
    piped = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "[" in piped.stdout and max(map(len, piped.stdout.splitlines())) > 120


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux tells that the other end is closed
        return b""
