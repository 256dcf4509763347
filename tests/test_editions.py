from asdjax.data.editions import EDITIONS, better_edition


def test_the_table_of_editions():
    for edition in EDITIONS.values():
        assert len(edition.development) == 7
    assert EDITIONS["dcase2022"].sections == ("00", "01", "02", "03", "04", "05")
    assert [len(e.evaluation) for e in EDITIONS.values()] == [7, 7, 9, 8, 5]
    assert [e.channels for e in EDITIONS.values()] == [1, 1, 1, 1, 2]


def test_another_edition_is_recognised():
    def note(edition, machines, mono):
        return better_edition(edition, machines.split(), mono=mono) or ""

    assert "dcase2022 or dcase2023 or dcase2024 or dcase2025:" in note(
        "dcase2026", "bearing fan ToyCar", True
    )
    assert note("dcase2026", "bearing fan ToyTank Vacuum", True).endswith(
        "those of dcase2023: name the right one with --dataset.edition"
    )
    assert "dcase2026:" in note("dcase2023", "bearingEmu fan", False)
    assert "dcase2025:" in note("dcase2024", "ToyPet", True)
    # Names in all editions: the channels tell.
    assert "dcase2022 or" in note("dcase2026", "fan ToyCar", True)
    assert "dcase2026:" in note("dcase2025", "fan ToyCar", False)
    # The right edition, alone or among machines that no edition has.
    for edition, its in EDITIONS.items():
        assert better_edition(edition, its.machines, mono=its.channels == 1) is None
        assert better_edition(edition, {*its.machines, "x"}, mono=its.channels == 1) is None
        assert better_edition(edition, {"pump", "motor"}, mono=its.channels == 2) is None
