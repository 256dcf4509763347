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
