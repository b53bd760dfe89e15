"""A Sphinx extension: the comments beside the attributes of classes that call themselves public.

Each public class calls itself ``shm_async.NAME``, and autodoc looks for the comments that document
its attributes in the module of that name. They stand in the private module that defines the class.
"""

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import shm_async

__all__ = ["setup"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Have autodoc find them. Sphinx calls this."""
    app.connect("builder-inited", lambda _app: gather())
    return {"parallel_read_safe": True}


def gather() -> None:
    """Give the analysis of the public module what was found in the private ones."""
    public = ModuleAnalyzer.for_module("shm_async")
    public.analyze()
    for home in sorted({*shm_async._HOMES.values(), "_shared_region", "errors"}):  # noqa: SLF001  # the one table of where public names are defined
        private = ModuleAnalyzer.for_module(f"shm_async.{home}")
        private.analyze()
        public.attr_docs.update(private.attr_docs)
        public.annotations.update(private.annotations)
        public.tagorder.update(private.tagorder)
