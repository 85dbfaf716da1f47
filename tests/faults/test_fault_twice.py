"""The same study is started twice at once."""

import time

import pytest

pytestmark = pytest.mark.slow


def test_a_second_command_on_one_output_is_refused(study, reference, outcome):
    row = outcome("started twice, same --output", "a second command while the first one trains", "not touched")
    first = study().start()
    first.wait_for_epoch(3)
    worker = first.worker()
    worker.suspend()  # it must still train when the second one gets there
    second = study(name="second")
    second.arguments[second.arguments.index("--output") + 1] = str(first.output)
    began = time.monotonic()
    refused = second.start().finish()
    row.seconds_lost = 0.0
    assert refused == 2, second.said
    message = second.said.splitlines()[-1]
    assert f"is in use by process {first.process.pid}" in message
    assert "Traceback" not in second.said
    worker.resume()
    code = first.finish()
    assert code == 0, first.said
    row.resumed_from = "not interrupted"
    row.ending = f"exit {refused}, naming the process of the first, after {time.monotonic() - began:.0f} s; exit {code}"
    row.intact(first, reference)
