"""The Pareto front: what nothing else beats."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from deepmad_hw.pareto import front


def test_a_slower_and_worse_design_is_beaten():
    assert front([[10.0], [12.0], [15.0]], [100.0, 90.0, 120.0]) == (0, 2)


def test_equal_designs_all_stay():
    assert front([[10.0], [10.0], [11.0]], [5.0, 5.0, 5.0]) == (0, 1)


def test_on_two_devices_being_faster_on_one_is_enough():
    assert front([[10.0, 2.0], [8.0, 3.0], [10.0, 3.0]], [7.0, 7.0, 7.0]) == (0, 1)


def test_without_points_there_is_no_front():
    assert front([], []) == ()


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)), max_size=8))
def test_what_is_left_out_is_beaten_by_what_stays_and_what_stays_by_nothing(points):
    kept = front([point[:2] for point in points], [point[2] for point in points])

    def beats(one, other):
        return one != other and one[0] <= other[0] and one[1] <= other[1] and one[2] >= other[2]

    assert not any(beats(points[i], points[j]) for i, j in itertools.product(range(len(points)), kept))
    left_out = set(range(len(points))) - set(kept)
    assert all(any(beats(points[i], points[j]) for i in kept) for j in left_out)
