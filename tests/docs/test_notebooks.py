"""The notebooks run, with fewer steps; their stored outputs are those of a whole run."""

import json

import jax
import matplotlib
import matplotlib.pyplot as plt
import pytest
from docs.pages import ROOT

from docs.generate import notebooks

FOLDER = ROOT / "docs" / "notebooks"
SHORT = {
    "own_loop": [("steps=300", "steps=3"), ("slice(0, 600)", "slice(0, 60)")],
    "quickstart": [
        ('load_config("quickstart:method=kd")', "load_config(quickstart)"),
        ("student_direct", "assistant"),
    ],
}
"""Changes of the code that make a notebook short."""


@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_runs(name, folder, capfd):
    matplotlib.use("Agg")
    names = {"quickstart": str(folder / "quickstart")}
    printed, plots = "", 0
    for source in notebooks.code_cells(FOLDER / f"{name}.ipynb"):
        for old, new in SHORT[name]:
            source = source.replace(old, new)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            text, drawn = notebooks.run_cell(source, names)
        printed, plots = printed + text, plots + len(drawn)
    assert plots == 2
    assert plt.get_fignums() == []
    words = {"own_loop": "gain in points", "quickstart": "digits are wrong"}
    assert words[name] in printed


@pytest.mark.parametrize("name", SHORT)
def test_the_stored_outputs_are_those_of_the_cells(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in codes] == list(range(1, len(codes) + 1))
    printing = [cell for cell in codes if "print(" in "".join(cell["source"])]
    assert all(cell["outputs"] for cell in printing)
    images = sum("image/png" in o.get("data", {}) for cell in codes for o in cell["outputs"])
    assert images == 2
    page = notebooks.markdown(FOLDER / f"{name}.ipynb")
    assert page.count("![Plot](data:image/png;base64,") == 2
    assert page.startswith("# ")


def test_all_notebooks_are_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SHORT)
