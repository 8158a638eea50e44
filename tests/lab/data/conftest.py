from tests.lab.data.pictures import cache  # noqa: F401 - a fixture
