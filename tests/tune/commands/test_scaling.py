"""What `measure_scaling.py` measures: steps and epochs from the command and from a configuration."""

import pytest

from tune.commands.scaling import build_parser, make_config


@pytest.fixture
def asked(tmp_path):
    """The configuration for a file's text and further arguments."""

    def read(text, *arguments):
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return make_config(build_parser().parse_args(["--config", str(file), *arguments]))

    return read


def test_epochs_have_fifty_steps_unless_file_or_command_differ(asked):
    assert make_config(build_parser().parse_args([])).train.steps_per_epoch == 50
    assert asked("model: {depth: 2}").train.steps_per_epoch == 50
    assert asked("train: {steps_per_epoch: 7}").train.steps_per_epoch == 7
    assert asked("train: {steps_per_epoch: 10}").train.steps_per_epoch == 10  # the default, but said
    assert asked("train: {steps_per_epoch: 7}", "--set", "train.steps_per_epoch=9").train.steps_per_epoch == 9


def test_the_epochs_are_the_commands_and_none_stops_early(asked):
    found = asked("train: {epochs: 40, patience: 1}", "--epochs", "3").train
    assert (found.epochs, found.patience) == (4, 4)
