"""The suite sees what a test leaves changed in its process (the fixture in conftest.py)."""

import warnings

import pytest
import torch
from helpers import process_changes, process_state, restore_process

CHANGES = {
    "gradients": lambda: torch.set_grad_enabled(False),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "warnings filter left": lambda: warnings.simplefilter("ignore"),
    "warnings filter gone": warnings.resetwarnings,
}


@pytest.fixture
def process():
    """Its state, brought back."""
    before = process_state()
    with warnings.catch_warnings():
        yield before
    restore_process(before)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name, process):
    CHANGES[name]()
    found = process_changes(process, process_state(), imported=False)
    assert found and all(line.startswith(name) for line in found)


def test_filters_of_a_library_that_was_imported(process):
    assert process_changes(process, process_state(), imported=False) == []
    warnings.filterwarnings("ignore", "words of a library")
    assert process_changes(process, process_state(), imported=True) == []
    assert process_changes(process, process_state(), imported=False)
    warnings.simplefilter("ignore", UserWarning)
    assert len(process_changes(process, process_state(), imported=True)) == 1
