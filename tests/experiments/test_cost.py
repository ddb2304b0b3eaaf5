"""Energy: ranges multiply, a meter is read where there is one, and what cannot be known is None."""

import pytest

from plm_tutorial.experiments.cost import GPU, OVERHEAD, Range, kilowatt_hours, metered, read_joules, uses_to_equal


def test_ranges_multiply():
    assert Range(2, 3).times(4) == (8, 12)
    assert Range(2, 3).times(Range(10, 20)) == (20, 60)


def test_an_hour_at_a_kilowatt_is_a_kilowatt_hour():
    assert kilowatt_hours(3600, Range(1000, 2000), Range(1, 1)) == pytest.approx((1, 2))
    assert kilowatt_hours(0, GPU) == (0, 0)
    assert kilowatt_hours(60, GPU).high == pytest.approx(GPU.high * OVERHEAD.high / 60e3)
    with pytest.raises(ValueError, match="not negative"):
        kilowatt_hours(-1, GPU)


def meter(folder, **microjoules):
    for name, value in microjoules.items():
        part = folder / name.replace("_", ":").replace("rapl", "intel-rapl")
        part.mkdir(exist_ok=True)
        (part / "energy_uj").write_text(str(value))


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    assert read_joules(tmp_path) is None
    meter(tmp_path, rapl_0=5_000_000, rapl_0_0=3_000_000, rapl_1=1_000_000)
    assert read_joules(tmp_path) == 6.0


def test_a_run_is_metered(tmp_path):
    meter(tmp_path, rapl_0=5_000_000)
    found = metered(lambda: meter(tmp_path, rapl_0=7_500_000) or "done", tmp_path)
    assert found.result == "done" and found.seconds > 0 and found.joules == 2.5


def test_a_counter_that_began_anew_or_cannot_be_read_says_nothing(tmp_path):
    meter(tmp_path, rapl_0=5_000_000)
    assert metered(lambda: meter(tmp_path, rapl_0=1), tmp_path).joules is None
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("?")
    assert read_joules(tmp_path) is None
    assert metered(lambda: None, tmp_path / "nowhere").joules is None


def test_uses():
    assert uses_to_equal(6e12, 2e9) == 3000
    with pytest.raises(ValueError, match="positive"):
        uses_to_equal(1.0, 0.0)
