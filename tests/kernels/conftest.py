from tests.kernels.arrays import interpreted, kernel  # noqa: F401 - fixtures
