"""scripts/environment: which Python it takes, and what it says when there is none."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = ROOT / "scripts"
WITHOUT_ENSUREPIP = f"""#!/bin/sh
# Debian's python3 without python3-venv
exec {sys.executable} -c "import sys; sys.modules['ensurepip'] = None; exec(sys.argv[2])" "$@"
"""


@pytest.mark.parametrize("candidate", [WITHOUT_ENSUREPIP, "#!/bin/sh\nexit 1\n", None])
def test_a_python_that_cannot_make_the_environment_is_named(tmp_path, candidate):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "pyproject.toml").touch()
    shutil.copy(SCRIPTS / "environment", tmp_path / "scripts")
    chosen = tmp_path / "a python"
    if candidate is not None:
        chosen.write_text(candidate)
        chosen.chmod(0o755)
    found = subprocess.run(
        ["bash", "-c", '. scripts/environment ""; echo still here'],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(chosen)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1 and not found.stdout
    lines = found.stderr.splitlines()
    assert len(lines) == 1 and str(chosen) in lines[0]
    assert "python3 python3-venv" in lines[0] and not (tmp_path / ".venv").exists()


def test_extras_that_are_installed_are_not_installed_again(tmp_path):
    """Whatever was asked for in between; a changed pyproject.toml installs anew."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("version = 1\n\nmore = 2\n")
    shutil.copy(SCRIPTS / "environment", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"  # stands for pip; fails for [none]
    python.write_text('#!/bin/sh\ncase "$*" in *none*) exit 1;; esac\necho "$*" >>log\n')
    python.chmod(0o755)
    log = tmp_path / "log"

    def installs(extras):
        log.write_text("")
        command = f'. scripts/environment "{extras}"'
        found = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, capture_output=True, text=True
        )
        return found.returncode, sum("--editable" in line for line in log.read_text().splitlines())

    assert installs("[plot]") == (0, 1)
    assert installs("[test]") == (0, 1)
    for extras in "[plot]", "[test]", "":
        assert installs(extras) == (0, 0)
    assert installs("[none]") == (1, 0)
    assert installs("[plot]") == (0, 0)
    (tmp_path / "pyproject.toml").write_text("version = 2\n")
    assert installs("") == (0, 1)
    assert installs("[plot]") == (0, 1)
