"""How a problem is solved: what makes no sense is refused, and a gap that nobody gave is the objective's usual one."""

import pytest

from deepmad_hw.errors import ConfigError
from deepmad_hw.files.jsonfile import plain
from deepmad_hw.problem.objective import Calibration, Objective, search_unit
from deepmad_hw.problem.settings import Settings

CALIBRATED = Objective(
    calibration=Calibration(
        unit="accuracy points",
        family="basic",
        networks=9,
        ranges=(),
        features=(),
        center=(),
        precision=(),
        largest_leverage=1.0,
    )
)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "best"}, "method: unknown method 'best'; expected one of certified, fast, continuous"),
        ({"gap": 0.0}, "gap: expected a gap between 0 and 100 %, got 0"),
        ({"gap": float("nan")}, "gap: expected a gap between 0 and 100 %, got nan"),
        ({"time_limit_s": 0.0}, "time_limit: expected a time above 0, got 0 s"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ConfigError) as caught:
        Settings(**wrong)
    assert str(caught.value) == said


@pytest.mark.parametrize(("objective", "usual"), [(Objective(), 0.005), (CALIBRATED, 0.05)])
def test_a_gap_that_nobody_gave_is_the_objectives_usual_one(objective, usual):
    assert Settings().gap_for(objective) == usual
    assert Settings(gap=0.25).gap_for(objective) == 0.25


def test_a_search_takes_its_tolerances_from_a_formulas_terms_but_from_the_gap_of_calibrated_points():
    assert search_unit(Objective(), magnitude=700.0) == search_unit(Objective(), magnitude=700.0, gap=0.1) == 700.0
    assert search_unit(CALIBRATED, magnitude=700.0) == pytest.approx(10.0)
    assert search_unit(CALIBRATED, magnitude=700.0, gap=0.1) == pytest.approx(20.0)


def test_a_gap_of_more_than_everything_is_refused_where_it_is_a_share():
    assert Settings(gap=2.0).gap_for(CALIBRATED) == 2.0
    with pytest.raises(ConfigError, match="expected a gap between 0 and 100 %, got 2"):
        Settings(gap=2.0).gap_for(Objective())


def test_settings_without_a_log_are_written_without_one():
    # Addresses of stored points of a sweep are made of these keys.
    assert list(plain(Settings())) == ["method", "gap", "time_limit_s", "threads", "seed"]
