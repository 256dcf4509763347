"""The notebook runs from the first cell to the last, and is committed without outputs."""

import json

import pytest
from conftest import ROOT

TOUR = ROOT / "asdjax" / "docs" / "tour.ipynb"


def test_the_notebook_has_no_outputs():
    cells = json.loads(TOUR.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.usefixtures("compiled_fast")
def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("ipykernel")
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("JPY_SESSION_NAME", "")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(TOUR, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
    assert int(outputs[-1]["data"]["text/plain"]) > 0  # alarms
