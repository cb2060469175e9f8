import pytest

from cdt.devices.in_flight import InFlight


class Result:
    def __init__(self, number, waited):
        self.block_until_ready = lambda: waited.append(number)


@pytest.mark.parametrize("limit", [1, 3])
def test_the_host_waits_for_the_oldest_step_beyond_the_limit(limit):
    waited = []
    in_flight = InFlight(limit)
    for number in range(6):
        in_flight.add(Result(number, waited))
        assert waited == list(range(max(0, number + 1 - limit)))
    in_flight.finish()
    in_flight.finish()
    assert waited == list(range(6))
