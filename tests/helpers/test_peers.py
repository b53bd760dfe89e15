"""What tests need and may be missing is told loudly, and is a failure in CI."""

from pathlib import Path

import peers
import pytest

pytestmark = pytest.mark.once


@pytest.fixture(params=["no node", "no package"])
def without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A machine that lacks one of the two; what the tests then say."""
    if request.param == "no node":
        monkeypatch.setenv("PATH", str(tmp_path))
        return "NODE IS MISSING"
    node = tmp_path / "node"
    node.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "BUILT", tmp_path / "shm.node")
    return "SHM-TYPED-ARRAY IS NOT INSTALLED"


def test_a_test_that_needs_node_is_skipped_with_the_reason(
    without: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=without):
        peers.need_node()
    with pytest.raises(pytest.skip.Exception, match=without):
        peers.Peer()


def test_in_ci_it_fails_instead(without: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=without):
        peers.need_node()
    with pytest.raises(pytest.fail.Exception, match=without):
        peers.Peer()
