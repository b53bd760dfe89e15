"""`shm-async sql`: the SQL for an administrator."""

import pytest

from shm_async.cli import main
from shm_async.postgresql import ddl

pytestmark = pytest.mark.once


def test_it_prints_what_the_function_returns(capsys: pytest.CaptureFixture[str]):
    assert main(["sql", "--schema", "mine", "--role", "app"]) == 0
    assert capsys.readouterr().out == ddl("mine", role="app")
    assert main(["sql"]) == 0
    assert capsys.readouterr().out == ddl()


def test_a_bad_schema_is_an_error_that_says_so(capsys: pytest.CaptureFixture[str]):
    assert main(["sql", "--schema", "no good"]) != 0
    assert "schema 'no good'" in capsys.readouterr().err
