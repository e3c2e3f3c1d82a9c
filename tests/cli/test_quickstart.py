"""What the first run tells at its end."""

from pathlib import Path

from deepmad_hw.cli import quickstart
from deepmad_hw.problem.solution import Solution, Status
from deepmad_hw.workflows.bench.bench import BenchRow
from deepmad_hw.workflows.quickstart import Quickstart, _line


def test_a_reference_whose_depth_penalty_dwarfs_its_score_shows_both(capsys):
    solution = Solution(problem="small", method="certified", status=Status.FEASIBLE, stopped="time")
    lines = tuple(_line(BenchRow(name=name), solution) for name in ("resnet18", "resnet101"))
    result = Quickstart(folder=Path("q"), budget_ms=20.0, solution=solution, lines=lines)
    quickstart._show(result)
    told = capsys.readouterr().out.splitlines()
    assert "note: resnet101: score 34,909, depth penalty 220,265, for its uneven depths" in told
    assert not [line for line in told if line.startswith("note: resnet18")]
    small, large = quickstart._to_json(result)["networks"]
    assert small["score"] - small["penalty"] == small["objective"]
    assert (round(large["objective"]), round(large["penalty"])) == (-185_355, 220_265)
