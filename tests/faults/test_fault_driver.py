"""The command itself is killed, and given again."""

import pytest

pytestmark = pytest.mark.slow


def test_killed_driver_and_the_command_again(study, reference, outcome):
    running, strikes, rows = study().start(), [], []
    for epoch, again in ((4, ("--resume",)), (9, ())):
        how = f"the command again{' with --resume' if again else ''}"
        rows.append(outcome("driver killed", "SIGKILL to the command, in mid-epoch", f"gone with it; {how}: same run"))

        def kill_and_start_again(worker, again=again):
            running.kill_driver()
            before = running.newest()
            running.start(*again)
            return before

        strikes.append(running.strike(epoch, kill_and_start_again))
    code = running.finish()
    assert code == 0, running.said
    for row, strike in zip(rows, strikes, strict=True):
        row.ending = f"exit {code}"
        row.resumed(strike)
        row.intact(running, reference)
