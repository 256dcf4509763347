import pytest
from conftest import TESTS
from support.plugins import forget
from support.plugins import plugins_of_the_test as plugins_of_the_test  # a fixture

from asdjax.cli import main
from asdjax.config import recipe as configs
from asdjax.config import registry
from asdjax.data.editions import Edition, better_edition, find_edition
from asdjax.errors import AsdjaxError

EDITIONS = [find_edition(name) for name in registry.names("edition") if name != "own"]


def test_the_table_of_editions():
    for edition in EDITIONS:
        assert len(edition.development) == 7
    assert find_edition("dcase2022").sections == ("00", "01", "02", "03", "04", "05")
    assert [e.name for e in EDITIONS] == [f"dcase{year}" for year in range(2022, 2027)]
    assert [len(e.evaluation) for e in EDITIONS] == [7, 7, 9, 8, 5]
    assert [e.channels for e in EDITIONS] == [1, 1, 1, 1, 2]
    assert configs.Config().dataset.edition == "auto"


def test_another_edition_is_recognised():
    def note(edition, machines, mono):
        return better_edition(edition, machines.split(), mono=mono) or ""

    assert "dcase2022 or dcase2023 or dcase2024 or dcase2025:" in note(
        "dcase2026", "bearing fan ToyCar", True
    )
    assert "are those of dcase2023:" in note("dcase2026", "bearing fan ToyTank Vacuum", True)
    assert "dcase2026:" in note("dcase2023", "bearingEmu fan", False)
    assert "dcase2025:" in note("dcase2024", "ToyPet", True)
    # Machines in several editions: decided by the number of channels.
    assert "dcase2022 or" in note("dcase2026", "fan ToyCar", True)
    assert "dcase2026:" in note("dcase2025", "fan ToyCar", False)
    # The right edition, alone or among machines that no edition has.
    for known in EDITIONS:
        edition = known.name
        assert better_edition(edition, known.machines, mono=known.channels == 1) is None
        assert better_edition(edition, {*known.machines, "x"}, mono=known.channels == 1) is None
        assert better_edition(edition, {"pump", "motor"}, mono=known.channels == 2) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"development": "fan"}, ["development", "expected a list", "'fan'"]),
        ({"evaluation": (1,)}, ["evaluation[0]", "text"]),
        ({"channels": -1}, ["channels", "at least 0"]),
        ({"clips_per_cell": -1}, ["clips_per_cell", "at least 0"]),
    ],
)
def test_impossible_editions(settings, words):
    with pytest.raises(AsdjaxError) as refusal:
        Edition(**{"name": "dcase2027", "development": (), "evaluation": (), **settings})
    for word in ["edition dcase2027", *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("dcase2025", "'dcase2025' .* edition of asdjax.data.editions"), ("a b", "letters, digits")],
)
def test_names_of_editions(name, words):
    before = find_edition("dcase2025")
    with pytest.raises(AsdjaxError, match=words):
        registry.register(Edition(name, ("fan",), ()))
    assert find_edition("dcase2025") is before


def test_wrong_editions_are_wrong_usage(tmp_path, capsys):
    for args in (
        ["data", str(tmp_path), "--dataset.edition", "dcase2027"],
        ["submit", "--verify", str(tmp_path), "--edition", "dcase2027"],
    ):
        with pytest.raises(SystemExit) as end:
            main(args)
        error = capsys.readouterr().err
        assert end.value.code == 2 and "dcase2022" in error and "'dcase2027'" in error


PLUGIN = """
from asdjax.config.registry import register
from asdjax.data.editions import Edition

register(
    Edition(
        "dcase2027",
        development=["fan", "bearingEmu"],
        evaluation=["ToothBrush"],
        channels=2,
        clips_per_cell=4,
    )
)
"""


@pytest.mark.usefixtures("compiled_fast_here", "plugins_of_the_test")
def test_a_plugins_edition_from_data_to_submission(corpus_root, tmp_path, capsys):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    registry.load_plugin(plugin)
    assert registry.names("edition")[-2:] == ("dcase2026", "dcase2027")
    data, run, package = str(corpus_root), str(tmp_path / "run"), str(tmp_path / "package")
    edition = ["--dataset.edition", "dcase2027"]
    assert main(["data", data, *edition]) == 0
    printed = capsys.readouterr()
    assert "(dcase2027)" in printed.out and "those of" not in printed.out + printed.err
    recipe = str(TESTS / "tiny.yaml")
    assert main(["run", recipe, "--data", data, "--run", run, *edition, "--train.epochs", "1"]) == 0
    info = str(TESTS / "submission.yaml")
    subset = ["--subsets", "evaluation"]
    assert main(["submit", run, "--info", info, "--out", package, *subset]) == 0
    assert "refuse" not in capsys.readouterr().err  # 16 clips are the right number
    for more in ([], ["--data", data, "--edition", "dcase2027"]):
        assert main(["submit", "--verify", package, *more]) == 0
    forget()
    for args in (["submit", "--verify", package], ["score", run]):
        assert main(args) == 1
        assert "'dcase2027'" in capsys.readouterr().err
