"""How Sphinx makes the site from these pages: `make docs`."""

import importlib.metadata
import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphobjinv import Inventory, compress, writebytes

HERE = Path(__file__).parent
sys.path.append(str(HERE / "_ext"))

project = "shm_async"
author = project_copyright = "the shm_async maintainers"
release = importlib.metadata.version("shm-async")

extensions = [
    "myst_parser",
    "outside",
    "public_names",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["inventories/README.md"]

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["scheme.css"]
html_js_files = [("diagrams.js", {"defer": "defer"})]
mermaid = HERE.parent / "build" / "mermaid"
if (mermaid / "mermaid.min.js").exists():
    html_static_path.append(str(mermaid))
html_copy_source = html_show_sphinx = False

# ---- Markdown ----------------------------------------------------------------------

myst_heading_anchors = 4  # as code hosts make them: guide.md#locks

# ---- docstrings --------------------------------------------------------------------

default_role = "py:obj"
autodoc_class_signature = "separated"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

# ---- references --------------------------------------------------------------------

nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r"\w+"),  # an argument, as docstrings name them
    ("py:class", r"shm_async\.(\w+\.)*_.*"),  # types that users do not name
    ("py:class", r"Buffer|DTypeLike|0"),  # names of annotations, as they stand in the source
    ("py:class", r"(opentelemetry|prometheus_client|pytest|starlette)\..*"),  # without inventory
]


def inventory(name: str) -> str:
    """Return the path of inventories/NAME.txt as the format that Sphinx reads."""
    made = HERE.parent / "build" / f"{name}.inv"
    made.parent.mkdir(exist_ok=True)
    text = Inventory(HERE / "inventories" / f"{name}.txt").data_file()
    writebytes(made, compress(text))
    return str(made)


intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", inventory("python")),
    "anyio": ("https://anyio.readthedocs.io/en/stable/", inventory("anyio")),
    "numpy": ("https://numpy.org/doc/stable/", inventory("numpy")),
}
intersphinx_disabled_reftypes = ["std:doc"]


def setup(app: Sphinx) -> None:
    """Know the blocks that diagrams.js draws. Sphinx calls this."""
    app.add_lexer("mermaid", TextLexer)
