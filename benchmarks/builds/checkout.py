"""Check revisions out and build them, each in a directory of its own.

A directory is named after the revision's tree, so the same content is built once, and a
working tree is a revision like the others. The programs that measure always come
from the tree that runs: a build never brings its own.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILDS = os.path.join(ROOT, "build", "bench-builds")
WORKING_TREE = "the working tree"

#: cffi alone builds in place, without a network. It reads a pyproject.toml that it finds beside
#: it, and an older setuptools would refuse ours: so that file stays away too.
COMPILE = "import build_ffi; build_ffi.ffibuilder.compile()"
LEFT_OUT = ("benchmarks", "pyproject.toml")


class BuildError(RuntimeError):
    """A revision cannot be found, or it does not compile."""


@dataclass(frozen=True, slots=True)
class Build:
    """A revision whose package can be imported from `path`."""

    label: str
    path: str


def prepare(revision: str | None) -> Build:
    """Return the built revision; None stands for the working tree, uncommitted changes included.

    Raises:
        BuildError: there is no such revision, or its extension does not compile.
    """
    if revision is None:
        label, tree = WORKING_TREE, working_tree()
    else:
        commit = commit_of(revision)
        label, tree = f"{revision} ({commit[:10]})", git("rev-parse", f"{commit}^{{tree}}")
    path = os.path.join(BUILDS, f"{tree[:12]}-{sys.implementation.cache_tag}")
    if not os.path.exists(path):
        build(tree, path)
    return Build(label, path)


def commit_of(revision: str) -> str:
    try:
        return git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except BuildError:
        raise BuildError(f"no revision {revision!r}: name a commit, a branch or a tag") from None


def working_tree() -> str:
    """Return the tree object of all files that git does not ignore; the index stays as it is."""
    os.makedirs(BUILDS, exist_ok=True)
    index = os.path.join(BUILDS, f"index-{os.getpid()}")
    try:
        shutil.copyfile(git("rev-parse", "--path-format=absolute", "--git-path", "index"), index)
        git("add", "--all", index=index)
        return git("write-tree", index=index)
    finally:
        if os.path.exists(index):
            os.unlink(index)


def build(tree: str, path: str) -> None:
    """Build beside `path` and rename: a directory with that name is whole."""
    unfinished = f"{path}.{os.getpid()}"
    os.makedirs(unfinished)
    try:
        extract(tree, unfinished)
        run([sys.executable, "-c", COMPILE], cwd=unfinished)
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def extract(tree: str, path: str) -> None:
    archive = os.path.join(path, "tree.tar")
    git("archive", f"--output={archive}", tree)
    excluded = [f"--exclude={name}" for name in LEFT_OUT]
    run(["tar", "--extract", f"--file={archive}", *excluded], cwd=path)
    os.unlink(archive)


def git(*arguments: str, index: str | None = None) -> str:
    environment = os.environ | ({"GIT_INDEX_FILE": index} if index else {})
    return run(["git", *arguments], cwd=ROOT, environment=environment).strip()


def run(command: list[str], cwd: str, environment: dict[str, str] | None = None) -> str:
    """Return what the command prints. Raises BuildError with its complaints if it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        complaints = (done.stderr or done.stdout).strip()[-2000:]
        raise BuildError(f"{' '.join(command)} failed in {cwd}:\n{complaints}")
    return done.stdout
