"""Ways to predict layers that were not measured from layers that were: rows in, a function of layers out.

All see the same rows and the same facts of a layer. `deepmad_hw.predict.interpolate` is one of them.
"""

import itertools

import numpy as np
from scipy.optimize import nnls
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepmad_hw.network import costs
from deepmad_hw.network.layer import ACTIVATIONS, OPERATIONS
from deepmad_hw.predict.interpolate import Interpolator

GP_ROWS_FOR_SCALES = 300  # rows that its length scales are fitted on, and all that it keeps
GP_ROWS = 1200


def _sizes(spec):
    """Return what a layer multiplies, reads, writes and keeps, and its plain shape, all above 0."""
    read = spec.in_channels * spec.height * spec.width
    written = spec.out_channels * spec.out_height * spec.out_width
    macs, weights = costs.layer_macs(spec), costs.layer_weights(spec)
    shape = (spec.in_channels, spec.out_channels, spec.height * spec.width, spec.kernel, spec.stride, spec.group_width)
    return (macs + 1, read, written, weights + 1, *shape)


def features(specs):
    """Return a row of numbers per layer: logarithms of its sizes, then what sort it is."""
    rows = []
    for spec in specs:
        sort = [spec.op == op for op in OPERATIONS] + [spec.activation == name for name in ACTIVATIONS]
        rows.append([*np.log(_sizes(spec)), *sort, spec.residual, spec.depthwise])
    return np.array(rows, dtype=float)


def _on_logarithms(regressor):
    """Return a way to fit that gives a regressor the features and the logarithm of the time."""

    def fit(rows):
        model = regressor()
        model.fit(features([row.spec for row in rows]), np.log([row.median_us for row in rows]))
        return lambda specs: np.exp(model.predict(features(specs)))

    return fit


def _posynomial(rows):
    """Fit, per sort of operation, non-negative shares of a call, multiply-adds, values moved, pixels and weights."""

    def monomials(spec):
        macs, read, written, weights, *_ = _sizes(spec)
        pixels = spec.out_height * spec.out_width
        return (1.0, macs * 1e-4, read * 1e-3, written * 1e-3, weights * 1e-3, pixels * 1e-2)

    def sort(spec):
        return (spec.op, spec.depthwise, spec.activation)

    laws = {}
    for key, group in itertools.groupby(sorted(rows, key=lambda row: sort(row.spec)), key=lambda row: sort(row.spec)):
        found = list(group)
        shares = np.array([monomials(row.spec) for row in found])
        times_us = np.array([row.median_us for row in found])
        laws[key] = nnls(shares / times_us[:, None], np.ones(len(found)))[0]
    usual = next(iter(laws.values()))
    return lambda specs: np.array([max(np.dot(monomials(s), laws.get(sort(s), usual)), 1e-3) for s in specs])


def _gaussian_process(rows):
    """Fit a process over all layers; its scales on few rows, because their fit takes the cube of their number."""
    random = np.random.default_rng(0)
    kept = [rows[index] for index in random.permutation(len(rows))[:GP_ROWS]]
    scaler = StandardScaler().fit(features([row.spec for row in kept]))
    points, times = scaler.transform(features([row.spec for row in kept])), np.log([row.median_us for row in kept])
    kernel = ConstantKernel(1.0) * RBF(np.full(points.shape[1], 3.0), (0.1, 1e5)) + WhiteKernel(0.01)
    few = slice(0, GP_ROWS_FOR_SCALES)
    scales = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(points[few], times[few]).kernel_
    model = GaussianProcessRegressor(scales, normalize_y=True, optimizer=None).fit(points, times)
    return lambda specs: np.exp(model.predict(scaler.transform(features(specs))))


def _ours(rows):
    return Interpolator(rows).predict_us


REGRESSORS = {
    "nearest layer": _on_logarithms(lambda: make_pipeline(StandardScaler(), KNeighborsRegressor(1))),
    "linear in logarithms": _on_logarithms(lambda: make_pipeline(StandardScaler(), Ridge(1e-3))),
    "posynomial": _posynomial,
    "gradient boosting": _on_logarithms(
        lambda: HistGradientBoostingRegressor(max_iter=400, learning_rate=0.06, min_samples_leaf=5, random_state=0)
    ),
    "Gaussian process": _gaussian_process,
    "law and process (ours)": _ours,
}
