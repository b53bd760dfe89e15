"""The manual page, the completions and the documentation say what the command does."""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shm_async import Region
from shm_async._cli import facts, texts
from shm_async._cli.parser import ORDERS, SORTS, make_parser
from shm_async._watch import inspection

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[3]
SHARE = next(path for path in (ROOT / "share", Path(sys.prefix) / "share") if path.is_dir())
[PAGE] = (SHARE / "man/man1").glob("shm-async.1*")  # a wheel has it packed
COMPLETIONS = {
    "bash": SHARE / "bash-completion/completions/shm-async",
    "zsh": SHARE / "zsh/site-functions/_shm-async",
    "fish": SHARE / "fish/vendor_completions.d/shm-async.fish",
}
DOCUMENTED = ROOT / "docs/command.md"


def commands() -> dict[str, argparse.ArgumentParser]:
    [action] = [
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(action.choices)


def options(command: argparse.ArgumentParser) -> list[str]:
    return [option for action in command._actions for option in action.option_strings]


def test_each_command_has_its_texts():
    assert set(commands()) == set(texts.COMMANDS) == set(texts.USAGES)


@pytest.mark.parametrize("command", commands())
def test_the_manual_page_has_each_command_and_option(command: str):
    data = PAGE.read_bytes()
    page = (gzip.decompress(data) if PAGE.suffix == ".gz" else data).decode()
    page = page.replace("\\-", "-").replace("\\&", "")
    assert f"shm-async {command}" in page
    assert texts.COMMANDS[command][0] in page
    wanted = [option for option in options(commands()[command]) if option not in ("-h", "--help")]
    assert [option for option in wanted if option not in page] == [], "run make command-files"


@pytest.mark.parametrize("shell", COMPLETIONS)
@pytest.mark.parametrize("command", commands())
def test_completions_have_each_command_and_option(shell: str, command: str):
    script = COMPLETIONS[shell].read_text()
    assert command in script
    long = [option.lstrip("-") for option in options(commands()[command]) if len(option) > 2]
    assert [option for option in long if option not in script] == [], "run make command-files"


def test_bash_completes_commands_options_and_regions(region: Region):
    script = f"""
source {COMPLETIONS["bash"]}
complete_words() {{
  COMP_WORDS=("$@"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
  _shma; echo "${{COMPREPLY[@]}}"
}}
complete_words shm-async hol
complete_words shm-async info {region.name[:-1]}
complete_words shm-async ls --so
"""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    if shutil.which("shm-async", path=path) is None:
        pytest.skip("shm-async is not installed as a command")
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["holders", region.name, "--sort"]


def test_fish_completes_commands_options_and_regions(region: Region):
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    for program in ("fish", "shm-async"):
        if shutil.which(program, path=path) is None:
            pytest.skip(f"no {program}")
    wanted = {"hol": "holders", f"info {region.name[:-1]}": region.name, "ls --so": "--sort"}
    script = f"source {COMPLETIONS['fish']}\n"
    script += "\n".join(f"complete -C 'shm-async {words}'" for words in wanted)
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True, text=True, timeout=30, check=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.stderr == ""
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == list(wanted.values())


def test_man_reads_the_page_without_a_complaint():
    if shutil.which("man") is None:
        pytest.skip("no man")
    done = subprocess.run(
        ["man", "--warnings", "-l", str(PAGE)],
        capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, "MANPAGER": "cat", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert texts.SUMMARY in " ".join(done.stdout.split())


# ---- docs/command.md ---------------------------------------------------------------------------


def documented() -> str:
    if not DOCUMENTED.exists():
        pytest.skip("no docs here")
    return DOCUMENTED.read_text()


@pytest.mark.parametrize("command", commands())
def test_each_command_is_documented(command: str):
    assert f"| `{command}" in documented()


def test_each_json_key_of_a_region_is_documented(region: Region):
    keys = facts.region_json(inspection.inspect(region.name)[0])
    text = documented()
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_each_state_is_documented():
    text = documented()
    states = inspection.State.__args__  # type: ignore[attr-defined]
    assert [state for state in states if f"`{state}`" not in text] == []


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]):
    program = documented().split("```python\n")[1].split("```")[0]
    exec(program, {})
    said = [line.partition("# ")[2] for line in program.splitlines() if "# " in line]
    assert capsys.readouterr().out.splitlines() == said


def test_what_can_be_sorted_by_is_what_the_code_knows():
    from shm_async._cli import listing, rates

    assert tuple(listing.SORTS) == SORTS
    assert tuple(rates.ORDERS) == ORDERS
