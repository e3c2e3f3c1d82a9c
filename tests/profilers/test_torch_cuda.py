"""PyTorch as a runtime: the network is the plan's ONNX file; on a card the timing follows the protocol (scripted)."""

import statistics
import time
from dataclasses import replace

import numpy as np
import pytest

from deepmad_hw.errors import InputFileError, MissingExtraError
from deepmad_hw.exporters.probes import PackedProbe, write_plan
from deepmad_hw.network import reference
from profilers import cuda, samples
from profilers.backend import NodeTimes, Settings, Watched
from profilers.cuda import COPIES, LAUNCHES, MIN_RUN_US, LayersSession, WholeSession
from profilers.gpu_sensors import Reading
from profilers.plan import read_plan
from profilers.timing import Rhythm, time_unit

FAMILIES = ("bottleneck", "basic", "mbconv", "mbconv_se")
CALM = Reading(sm_clock_mhz=1980, memory_clock_mhz=2619, power_w=300.0, temperature_c=60, reasons=())


class ScriptedGpu:
    """A card with a clock of its own: kernels take what they are told, launching takes the processor's time."""

    def __init__(self, *, launch_us=5.0, wait_us=30.0):
        self.processor_us = self.device_us = 0.0
        self.launch_us, self.wait_us = launch_us, wait_us
        self.waits = self.graphs = self.launched_graphs = 0
        self._capturing = None

    def clock(self):
        return self.processor_us / 1e6

    def kernel(self, us):
        if self._capturing is not None:
            self._capturing.append(("kernel", us))
            return
        self.processor_us += self.launch_us
        self.device_us = max(self.device_us, self.processor_us) + us

    def event(self):
        return []

    def record(self, event):
        if self._capturing is not None:
            self._capturing.append(("event", event))
            return
        event[:] = [max(self.device_us, self.processor_us)]

    def elapsed_us(self, begin, end):
        assert self.device_us <= self.processor_us, "nobody has waited"
        return end[0] - begin[0]

    def wait(self):
        self.waits += 1
        self.processor_us = max(self.processor_us, self.device_us) + self.wait_us

    def capture(self, work):
        self.graphs += 1
        self._capturing = steps = []
        work()
        self._capturing = None

        def launch():
            self.launched_graphs += 1
            self.processor_us += self.launch_us
            self.device_us = max(self.device_us, self.processor_us)
            for kind, what in steps:
                if kind == "kernel":
                    self.device_us += what
                else:
                    what[:] = [self.device_us]

        return launch


def _work(gpu, kernels):
    def work():
        for us in kernels:
            gpu.kernel(us)

    return work


def _session(gpu, kernels, *, graph=True, readings=()):
    told = iter(readings)
    return WholeSession(
        gpu, _work(gpu, kernels), graph=graph, clock=gpu.clock, sensors=lambda: next(told, None) if readings else None
    )


class TestWholeSession:
    def test_a_graph_takes_the_card_s_time_though_launching_its_kernels_takes_longer(self):
        gpu = ScriptedGpu(launch_us=5.0)
        session = _session(gpu, [2.0] * 50)
        assert session.run() == pytest.approx(100.0, rel=0.01)
        assert session.conditions()["launch_bound"] == "yes"
        assert session.conditions()["launch_us"] == pytest.approx(250.0)

    def test_piece_by_piece_launching_is_part_of_the_time(self):
        gpu = ScriptedGpu(launch_us=5.0)
        assert _session(gpu, [2.0] * 50, graph=False).run() == pytest.approx(250.0, rel=0.02)
        assert gpu.graphs == 0

    def test_large_kernels_are_not_bound_by_launching(self):
        gpu = ScriptedGpu(launch_us=5.0)
        session = _session(gpu, [500.0] * 10)
        assert session.run() == pytest.approx(5000.0, rel=0.01)
        assert session.conditions()["launch_bound"] == "no"

    def test_small_networks_are_repeated_between_two_events_and_waited_for_once(self):
        gpu = ScriptedGpu()
        session = _session(gpu, [1.0] * 10)
        graphs, waits = gpu.launched_graphs, gpu.waits
        session.run()
        assert gpu.launched_graphs - graphs >= MIN_RUN_US / 20
        assert gpu.waits - waits == 1

    def test_large_networks_are_not_repeated(self):
        gpu = ScriptedGpu()
        session = _session(gpu, [3000.0])
        graphs = gpu.launched_graphs
        session.run()
        assert gpu.launched_graphs - graphs == 1

    def test_the_card_is_warm_before_anything_is_measured(self):
        gpu = ScriptedGpu()
        first_measured_s = []
        record = gpu.record
        gpu.record = lambda event: (first_measured_s.append(gpu.clock()), record(event))
        _session(gpu, [100.0])
        assert first_measured_s[0] >= cuda.WARM_UP_S

    def test_the_card_s_state_is_read_now_and_then_and_told_once(self):
        gpu = ScriptedGpu()
        hot = Reading(
            sm_clock_mhz=1200, memory_clock_mhz=2619, power_w=310.0, temperature_c=90, reasons=("hw_thermal",)
        )
        session = _session(gpu, [50_000.0], readings=[CALM, CALM, CALM, hot])
        for _ in range(15):
            session.run()
        told = session.conditions()
        assert (told["sm_clock_min_mhz"], told["sm_clock_max_mhz"], told["throttled"]) == (1200, 1980, "hw_thermal")
        assert "throttled" not in session.conditions()

    @pytest.mark.promise("T9", 200)
    def test_every_unit_tells_why_the_clock_was_what_it_was(self, tries):
        throttled_s = [(start, start + 0.4) for start in range(2, 60, 3)]
        told = {"": [], "hw_thermal": []}
        gpu = ScriptedGpu()

        def now():
            hot = any(begin <= gpu.clock() < end for begin, end in throttled_s)
            return replace(CALM, reasons=("hw_thermal", "power_cap") if hot else ("power_cap",))

        session = WholeSession(gpu, _work(gpu, [300.0]), clock=gpu.clock, sensors=now)
        for number in tries:
            begin_s = gpu.clock()
            rhythm = Rhythm(blocks=1 + number % 3, block_us=10.0 ** (3 + number % 3), max_runs=60)
            unit = time_unit("net", 0, canary=session, whole=session, profiled=None, rhythm=rhythm, scripted=True)
            unit = replace(unit, conditions=session.conditions())
            assert "power_cap" in unit.conditions["clock_reasons"].split()
            hot = any(max(begin, begin_s) + cuda.SENSORS_EVERY_S < min(end, gpu.clock()) for begin, end in throttled_s)
            told[unit.conditions["throttled"]].append(gpu.clock() - begin_s)
            assert not hot or unit.conditions["throttled"] == "hw_thermal"
            assert samples.disturbed(unit) is (unit.conditions["throttled"] == "hw_thermal")
            gpu.processor_us += 1e5 * (number % 4)  # other probes have their turn
        assert min(told[""]) < cuda.SENSORS_EVERY_S  # units too short for a reading of their own
        assert told["hw_thermal"]

    @pytest.mark.promise("T9")
    def test_a_card_without_sensors_is_timed_all_the_same_and_its_clock_is_unknown(self):
        session = _session(ScriptedGpu(), [100.0])
        conditions = session.conditions()
        assert set(conditions) == {"launch_us", "launch_bound", "clock_reasons"}
        assert conditions["clock_reasons"] == "unknown"
        assert session.finish() == NodeTimes()
        assert isinstance(session, Watched)

    def test_launching_is_measured_often_enough_for_a_median(self):
        assert LAUNCHES >= 10


class TestLayersSession:
    def test_every_layer_has_its_time_though_launching_takes_longer(self):
        gpu = ScriptedGpu(launch_us=50.0)
        layers = [(f"layer{us:g}", _work(gpu, [us, us / 2])) for us in (2.0, 20.0, 4.0)]
        session = LayersSession(gpu, layers)
        totals = [session.run() for _ in range(3)]
        times = session.finish()
        assert {name: values[0] for name, values in times.us.items()} == pytest.approx(
            {"layer2": 3.0, "layer20": 30.0, "layer4": 6.0}
        )
        assert totals == pytest.approx([39.0] * 3)
        assert {len(values) for values in times.us.values()} == {3}
        assert times.operations == {"layer2": 1, "layer20": 1, "layer4": 1}

    def test_a_run_is_one_graph_with_every_layer_repeated_in_its_place(self):
        gpu = ScriptedGpu()
        launched = []
        session = LayersSession(gpu, [(name, lambda name=name: launched.append(name)) for name in "abc"])
        assert launched == [*"abc", *("a" * COPIES), *("b" * COPIES), *("c" * COPIES)]
        assert gpu.graphs == 1
        waits = gpu.waits
        session.run()
        assert gpu.waits - waits == 1


torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install "deepmad-hw[torch]"')

from profilers import torch_cuda  # noqa: E402
from profilers.torch_network import TorchNetwork, parameter_shapes  # noqa: E402


class ProcessorAsGpu:
    """The processor behind the calls of a card, so that the sessions of a card run real networks here."""

    def event(self):
        return []

    def record(self, event):
        event[:] = [time.perf_counter()]

    def elapsed_us(self, begin, end):
        return (end[0] - begin[0]) * 1e6

    def wait(self):
        pass

    def capture(self, work):
        return work


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plan(tmp_path_factory, graph):
    folder = tmp_path_factory.mktemp("plan")
    graphs = [graph(family, family) for family in FAMILIES]
    graphs += [reference.get(name, resolution=(32, 32)) for name in ("resnet18", "mobilenet_v2")]
    write_plan(folder, [PackedProbe(name=each.name, graph=each, by_layer=True) for each in graphs], batch=2)
    return read_plan(folder)


def _network(plan, index, **options):
    settings = {"device": "cpu", "precision": "fp32", "channels_last": False} | options
    with torch.inference_mode():
        return TorchNetwork(plan, plan.probes[index], **settings)


@pytest.mark.parametrize("index", range(6))
class TestNetwork:
    def test_it_computes_what_the_plan_s_onnx_file_computes(self, plan, index):
        onnxruntime = pytest.importorskip("onnxruntime")
        probe = plan.probes[index]
        network = _network(plan, index)
        with torch.inference_mode():
            network()
        session = onnxruntime.InferenceSession(str(plan.path(probe)), providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, {"image": network.tensors["image"].numpy()})
        found = network.tensors[probe.nodes[-1].name].numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()

    def test_it_has_the_parameters_of_the_onnx_file(self, plan, index):
        import onnx

        probe = plan.probes[index]
        model = onnx.load(plan.path(probe), load_external_data=False)
        stored = sorted(tuple(tensor.dims) for tensor in model.graph.initializer if tensor.dims)
        assert stored == sorted(shape for node in probe.nodes for shape in parameter_shapes(node.spec))

    def test_layout_changes_nothing_but_the_order_in_memory(self, plan, index):
        outputs = []
        for channels_last in (False, True):
            network = _network(plan, index, channels_last=channels_last)
            with torch.inference_mode():
                network()
            outputs.append(network.tensors[plan.probes[index].nodes[-1].name].numpy())
        assert np.abs(outputs[0] - outputs[1]).max() <= 1e-4 * np.abs(outputs[0]).max()

    def test_what_nobody_reads_any_more_is_given_back(self, plan, index):
        network = _network(plan, index)
        for _ in range(2):
            with torch.inference_mode():
                network()
            assert set(network.tensors) == {"image", plan.probes[index].nodes[-1].name}


@pytest.mark.parametrize("at_once", [True, False])
def test_a_card_s_session_times_a_real_network(plan, at_once, monkeypatch):
    monkeypatch.setattr(cuda, "WARM_UP_S", 0.0)
    monkeypatch.setattr(cuda, "LAUNCHES", 3)
    session = torch_cuda.session(
        plan, plan.probes[1], gpu=ProcessorAsGpu(), device="cpu", graph=at_once, profiled=False
    )
    assert session.run() > 0


def test_a_card_s_session_times_every_layer_of_a_real_network(plan, monkeypatch):
    monkeypatch.setattr(cuda, "COPIES", 2)
    probe = plan.probes[3]
    session = torch_cuda.session(plan, probe, gpu=ProcessorAsGpu(), device="cpu", graph=True, profiled=True)
    totals = [session.run() for _ in range(2)]
    times = session.finish()
    assert list(times.us) == [node.name for node in probe.nodes]
    assert all(value > 0 for values in times.us.values() for value in values)
    assert statistics.fsum(map(sum, times.us.values())) == pytest.approx(sum(totals))


def test_float16_has_the_layers_in_float16(plan):
    network = _network(plan, 0, precision="fp16")
    with torch.inference_mode():
        network()
    assert network.tensors[plan.probes[0].nodes[-1].name].dtype == torch.float16


def test_precisions_that_pytorch_cannot_time_are_refused(plan):
    with pytest.raises(InputFileError, match="no probes of precision int8"):
        _network(plan, 0, precision="int8")


def test_a_file_whose_layers_nobody_knows_is_refused(plan):
    with pytest.raises(InputFileError, match="this file tells none"):
        TorchNetwork(
            plan,
            plan.probes[0].__class__(
                name="own", file="own.onnx", kind="network", input_shape=(1, 3, 8, 8), weight_bytes=0
            ),
            device="cpu",
            precision="fp32",
            channels_last=False,
        )


@pytest.mark.parametrize("backend", [torch_cuda.BACKEND, torch_cuda.EAGER], ids=lambda backend: backend.name)
def test_without_a_card_one_line_says_so(plan, backend):
    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    with pytest.raises(MissingExtraError, match="finds no NVIDIA GPU; see 'deepmad-hw doctor'"):
        backend.environment(plan, Settings(runtime=backend.name))
