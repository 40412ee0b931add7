r"""The notebooks of the site: as pages, and the command that runs them and stores their outputs.

    python -m docs.generate.notebooks docs/notebooks/*.ipynb

It runs the cells of each notebook in one process, in order, and writes what they print and draw
into the file.
"""

import ast
import base64
import contextlib
import io
import json
import pathlib
import sys
from typing import Any


def markdown(path: pathlib.Path) -> str:
    """Returns a notebook as a page: its text, its code, and the stored outputs."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if text := "".join(output.get("text", ())).rstrip():
                parts.append(f"```text\n{text}\n```")
            if image := output.get("data", {}).get("image/png"):
                parts.append(f"![Plot](data:image/png;base64,{image.strip()})")
    return "\n\n".join(parts) + f"\n\nThis page is the notebook `docs/notebooks/{path.name}`.\n"


def code_cells(path: pathlib.Path) -> list[str]:
    """Returns the code of a notebook, one string per cell."""
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> tuple[str, list[bytes]]:
    """Runs the code of a cell; returns what it printed, and its plots as PNG files.

    Args:
        source: the code. The value of a last expression is printed, as in a notebook.
        names: names of the earlier cells; new ones are added.
    """
    import matplotlib.pyplot as plt

    tree = ast.parse(source)
    last = None
    if tree.body and isinstance(end := tree.body[-1], ast.Expr):
        last = end.value
        tree.body.pop()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last), "cell", "eval"), names)
            if value is not None and not type(value).__module__.startswith("matplotlib"):
                print(value)
    plots = []
    for number in plt.get_fignums():
        file = io.BytesIO()
        plt.figure(number).savefig(file, dpi=80, metadata={"Software": None})
        plots.append(file.getvalue())
        plt.close(number)
    return out.getvalue(), plots


def store(path: pathlib.Path) -> None:
    """Runs a notebook and writes its outputs into the file."""
    notebook, names = json.loads(path.read_text()), {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        text, plots = run_cell("".join(cell["source"]), names)
        cell["execution_count"], cell["outputs"] = count, []
        if text:
            lines = text.splitlines(keepends=True)
            cell["outputs"].append({"name": "stdout", "output_type": "stream", "text": lines})
        for plot in plots:
            data = {"image/png": base64.b64encode(plot).decode()}
            cell["outputs"].append({"data": data, "metadata": {}, "output_type": "display_data"})
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    for name in sys.argv[1:]:
        store(pathlib.Path(name))
