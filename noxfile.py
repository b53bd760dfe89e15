"""The tests on each Python that is here: `nox`, `nox -s tests-3.12 -- -k gate`."""

import nox

nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.10", "3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """The tests, over an installed package. Arguments go to pytest."""
    session.install(".[test]")
    chosen = session.posargs or ["-n", "auto", "--maxprocesses", "4", "-m", "not long"]
    session.run("python", "-m", "pytest", *chosen)
