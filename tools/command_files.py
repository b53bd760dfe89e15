"""Make the manual page and the shells' completions of `shm-async` from the texts of --help.

Run by `make command-files`. What it makes lies in share/, where wheels take it from.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import shtab

from shm_async._cli import texts
from shm_async._cli.parser import make_parser

ROOT = Path(__file__).parent.parent
SHARE = ROOT / "share"
PLACES = {
    "bash": "bash-completion/completions/shm-async",
    "zsh": "zsh/site-functions/_shm-async",
    "fish": "fish/vendor_completions.d/shm-async.fish",
}
PAGE = "man/man1/shm-async.1"

#: What the completions say again and again, and the same in short.
SHORTER = {
    "_shtab_shma": "_shma",
    "show this help message and exit": "help",
    "a name in /dev/shm, with or without a slash in front, or a key such as 0x1234": "a region",
}

#: The functions that texts.REGION_NAMES names. A name with a character that a shell takes for
#: something else is quoted by zsh and fish; bash leaves those names out.
FUNCTIONS = {
    "bash": """\
_shm_async_regions() {
  local IFS=$'\\n' plain='^[A-Za-z0-9_./:@%+=-]+$'
  compgen -W "$(command shm-async ls --quiet 2>/dev/null | grep -E "$plain")" -- "$1"
}
""",
    "zsh": """\
_shm_async_regions() {
  local -a names
  names=(${(f)"$(command shm-async ls --quiet 2>/dev/null)"})
  compadd -a names
}
""",
    "fish": "",
}


def main() -> None:
    """Make them all."""
    parser = make_parser()
    shorten_texts_of(parser)
    for shell, place in PLACES.items():
        text = shtab.complete(parser, shell, root_prefix="shma", preamble=FUNCTIONS)
        write(place, shorter(text, shell))
    write(PAGE, manual_page())


def shorten_texts_of(parser: argparse.ArgumentParser) -> None:
    """Leave of each command's text the first sentence: a shell shows a line of it."""
    for name, command in parser._subparsers._group_actions[0].choices.items():  # noqa: SLF001  # argparse tells it nowhere else
        command.description = texts.COMMANDS[name][0]


def shorter(text: str, shell: str) -> str:
    """The same, with what it says again and again in short: the wheel has all of it."""
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    if shell == "fish":
        again = "complete -c shm-async"
        text = text.replace(f"\n{again} ", "\n_shma ")
        text = text.replace("\n_shma ", f"\nfunction _shma\n  {again} $argv\nend\n_shma ", 1)
    return text


def write(place: str, text: str) -> None:
    path = SHARE / place
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [line.rstrip() for line in text.splitlines()]
    if place != PAGE:  # without comments but the first, which says what made it
        rest = (line for line in lines[1:] if line and not line.lstrip().startswith("#"))
        lines = [lines[0], f"# made by `make {Path(__file__).stem.replace('_', '-')}`", *rest]
    path.write_text("\n".join(lines) + "\n")


def manual_page() -> str:
    command = [
        sys.executable,
        "-c",
        "from argparse_manpage.cli import main; main()",
        *("--module", "shm_async._cli.parser", "--function", "make_parser"),
        *("--prog", "shm-async", "--description", texts.SUMMARY),
        *("--manual-title", "shm_async", "--project-name", "shm_async"),
        *("--format", "single-commands-section"),
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
