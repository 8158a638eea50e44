"""What the Triton kernel shows on a GPU alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adabelief.kernels import gpu
from adabelief.kernels.layout import SCALARS, row
from adabelief.rule import coefficients, reference_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_uploads_of_a_captured_graph_are_exact():
    """Integers too that float64 does not have."""
    addresses, graph = np.array([0, 2**57 - 1, 2**53 + 1]), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        uploaded = gpu._upload(addresses, torch.device("cuda"))
    graph.replay()
    assert uploaded.tolist() == addresses.tolist()


def test_an_array_may_have_more_elements_than_32_bits_count():
    n = 2**31 + 4104
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("needs 30 GiB of free memory")
    p, g = (torch.ones(n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    m, s = (torch.zeros(n, device="cuda") for _ in range(2))
    scalars = coefficients(1, lr=0.5)._asdict() | dict(gain=1.0, alpha=0.5, synchronize=0.0, skip=0.0, t=1.0)
    table = gpu.Table(
        [row(p=p.data_ptr(), g=g.data_ptr(), m=m.data_ptr(), s=s.data_ptr(), elements=n)], "bfloat16", p.device
    )
    table.update(0, [scalars[name] for name in SCALARS])
    expected, state = reference_step(np.ones(1), np.ones(1), lr=0.5)
    for x, value in ((p, expected), (m, state["exp_avg"]), (s, state["exp_avg_var"])):
        assert (x == x[0]).all()
        torch.testing.assert_close(x[-1].double().cpu(), torch.tensor(float(value[0])).double(), rtol=1e-2, atol=1e-6)
