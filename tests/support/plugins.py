"""The registry as a new process has it."""

import pytest

from asdjax.config import registry


def forget():
    """Only what comes with asdjax is registered, as in a new process."""
    for kind, name in list(registry._ENTRIES):
        if name not in registry.BUILT_IN[kind]:
            del registry._ENTRIES[kind, name]
    registry.changes += 1


@pytest.fixture
def plugins_of_the_test():
    """What a test registers is gone after it."""
    yield
    forget()
