"""Fixtures for tests over emulated kernels."""

import pytest

from tests.simt import library


@pytest.fixture
def nothing_reported():
    """Loads the emulated ops; fails where one races, reads what nothing wrote or has a bad address."""
    library.take_reports()
    yield
    assert library.take_reports() == []
